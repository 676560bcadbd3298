"""Facts about --tasks all: what the weights have heads for and the data annotations of, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness.data.scenes import write_scenes
from harness.hosts.build import build_host
from harness.hosts.weights.find import assets_of
from harness.hosts.weights.own import save_weights
from harness.kit.errors import HarnessError
from harness.run.choose import chosen_hosts, measurable_tasks, shipped_hosts
from harness.run.request import RunOptions

FILE = "model.safetensors"
# Heads of their own ship in a folder per task.
SHIPPED_HEADS = {path.parent.name for path in assets_of("albef-tiny").glob(f"*/{FILE}")}
SHIPPED = tuple(sorted({"classification", "retrieval", "vqa"} | SHIPPED_HEADS))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes with annotations for every task."""
    folder = tmp_path_factory.mktemp("data") / "world"
    write_scenes(folder, "val", 2, 0)
    return folder


@pytest.fixture
def entailing(tmp_path: Path) -> Path:
    """A folder of ALBEF's weights with a head for entailment alone."""
    save_weights(build_host("albef-tiny", task="entailment"), tmp_path / "heads" / FILE, "albef-tiny")
    return tmp_path / "heads"


def test_the_shipped_weights_on_the_built_in_world() -> None:
    assert "entailment" in SHIPPED_HEADS
    assert measurable_tasks("albef-tiny", None, "scenes") == SHIPPED
    assert measurable_tasks("blip-tiny", None, "scenes") == (
        "captioning",
        "classification",
        "nlvr2",
        "retrieval",
        "vqa",
    )


def test_a_folder_of_weights_does_what_its_files_can_each_its_own_task(entailing: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    save_weights(build_host("albef-tiny", task="nlvr2"), folder / "nlvr2" / FILE, "albef-tiny")
    assert measurable_tasks("albef-tiny", folder, "scenes") == ("nlvr2",)
    (folder / "entailment").mkdir()
    (folder / "entailment" / FILE).write_bytes((entailing / FILE).read_bytes())
    assert measurable_tasks("albef-tiny", folder, "scenes") == ("entailment", "nlvr2")
    save_weights(build_host("albef-tiny"), folder / FILE, "albef-tiny")
    assert set(measurable_tasks("albef-tiny", folder, "scenes")) == {
        *("classification", "entailment", "nlvr2", "retrieval", "vqa")
    }


def test_a_protocol_does_what_hosts_can_be_trained_on() -> None:
    every = ("entailment", "nlvr2", "retrieval", "vqa")
    assert measurable_tasks("albef-tiny", None, "scenes", "finetune") == every
    assert measurable_tasks("albef-tiny", None, "scenes", "pretrain") == tuple(sorted(("classification", *every)))


def test_without_a_host_each_task_goes_to_the_first_that_can_do_it() -> None:
    assert shipped_hosts()[0] == "albef-tiny"
    found = chosen_hosts(None, "all", None, "scenes")
    assert found == (("albef-tiny", SHIPPED), ("blip-tiny", ("captioning",)))
    assert chosen_hosts(None, "captioning,vqa", None, "scenes") == (
        *(("albef-tiny", ("vqa",)), ("blip-tiny", ("captioning",))),
    )
    assert chosen_hosts(None, "vqa", None, "scenes") == (("albef-tiny", ("vqa",)),)


def test_of_hosts_that_are_named_each_does_all_it_can() -> None:
    both = "blip-tiny,albef-tiny"
    can = measurable_tasks("blip-tiny", None, "scenes")
    assert chosen_hosts(both, "all", None, "scenes") == (("blip-tiny", can), ("albef-tiny", SHIPPED))
    assert chosen_hosts(both, "captioning,retrieval", None, "scenes") == (
        ("blip-tiny", ("captioning", "retrieval")),
        ("albef-tiny", ("retrieval",)),
    )
    assert chosen_hosts("albef-tiny", "vqa,captioning", None, "scenes") == (("albef-tiny", ("vqa", "captioning")),)


def test_weights_without_a_host_are_of_the_host_they_state(entailing: Path) -> None:
    found = chosen_hosts(None, "all", entailing, "scenes")
    assert found == (("albef-tiny", ("classification", "entailment", "retrieval")),)
    assert chosen_hosts(None, "captioning", assets_of("blip-tiny"), "scenes") == (("blip-tiny", ("captioning",)),)


def test_a_task_that_is_named_and_nobody_does_is_an_error(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "world")
    for path in (tmp_path / "world").glob("nlvr*.json"):
        path.unlink()
    data = str(tmp_path / "world")
    for named in (None, "blip-tiny,albef-tiny"):
        with pytest.raises(
            HarnessError, match=r"^nlvr2: data .*world: no statements about image pairs in it; expected"
        ):
            chosen_hosts(named, "vqa,nlvr2", None, data)
    for named in ("albef-tiny,nobody", "nobody"):
        with pytest.raises(HarnessError, match="unknown model 'nobody'"):
            chosen_hosts(named, "vqa", None, data)
    with pytest.raises(HarnessError, match="are one host's; name it alone with --model"):
        chosen_hosts("albef-tiny,blip-tiny", "vqa", tmp_path, data)
    (tmp_path / "empty").mkdir()
    with pytest.raises(HarnessError, match=r"no task for albef-tiny, blip-tiny on .*empty; see: python"):
        chosen_hosts(None, "all", None, str(tmp_path / "empty"))


def test_one_annotation_file_of_a_folder_decides_alone(world: Path) -> None:
    assert measurable_tasks("albef-tiny", None, str(world / "captions_val.json")) == ("retrieval",)


def test_weights_decide_by_the_task_they_were_fine_tuned_on(entailing: Path) -> None:
    assert measurable_tasks("albef-tiny", entailing, "scenes") == ("classification", "entailment", "retrieval")


def test_questions_need_a_closed_list(tmp_path: Path) -> None:
    save_weights(build_host("blip-tiny"), tmp_path / FILE, "blip-tiny")
    assert measurable_tasks("blip-tiny", tmp_path, "scenes") == ("captioning", "classification", "retrieval")


def test_data_decide_by_what_they_hold(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "world")
    assert measurable_tasks("albef-tiny", None, str(tmp_path / "world")) == SHIPPED
    for name in ("questions_val.json", "annotations_val.json"):
        (tmp_path / "world" / name).unlink()
    assert "vqa" not in (left := measurable_tasks("albef-tiny", None, str(tmp_path / "world")))
    assert sorted((*left, "vqa")) == sorted(SHIPPED)


def test_a_file_that_cannot_be_read_is_no_reason_to_leave_its_task_out(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "world")
    (tmp_path / "world" / "captions_val.json").write_text('{"images": [')
    with pytest.raises(HarnessError, match="captions_val"):
        measurable_tasks("albef-tiny", None, str(tmp_path / "world"))


def test_nothing_to_do_is_said_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "ve.json").write_text(json.dumps([{"image": "a.jpg", "sentence": "a dog", "label": "neutral"}]))
    with pytest.raises(HarnessError, match=r"no task for blip-tiny on .* which holds hypotheses: it can do capt"):
        measurable_tasks("blip-tiny", None, str(tmp_path))
    with pytest.raises(HarnessError, match="no such folder"):
        measurable_tasks("albef-tiny", None, str(tmp_path / "nowhere"))


def test_captioning_is_left_out_of_all_tasks_where_there_is_no_java(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    hosts = dict(chosen_hosts("blip-tiny", "all", None, "scenes"))
    assert "captioning" not in hosts["blip-tiny"]
    assert "warning: captioning is left out: METEOR, a metric of captioning, runs on Java" in capsys.readouterr().err
    assert chosen_hosts("blip-tiny", "captioning", None, "scenes") == (("blip-tiny", ("captioning",)),)
    chosen_hosts("albef-tiny", "all", None, "scenes")
    assert capsys.readouterr().err == ""


def test_the_first_command_measures_retrieval_and_vqa_of_one_host() -> None:
    options = RunOptions(methods=("elip",), ratios=(0.5, 0.7))
    (request,) = options.requests()
    assert (request.model, request.tasks) == ("albef-tiny", ("retrieval", "vqa"))


def test_whoever_brings_a_model_or_asks_for_all_gets_all_tasks() -> None:
    (named,) = RunOptions(methods=("elip",), hosts="albef-tiny").requests()
    assert set(named.tasks) > {"retrieval", "vqa"}
    every = RunOptions(methods=("elip",), tasks="all").requests()
    assert {request.model for request in every} == {"albef-tiny", "blip-tiny"}
