"""Which answers are ranked: those of --answers, else those that the data brings, else those of the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.cli.main import main
from harness.data.annotations.records import ImageTextSet
from harness.data.scenes import write_scenes
from harness.hosts.build import build_host
from harness.hosts.ready import Host, load_host
from harness.hosts.weights.sets import task_weights
from harness.kit.errors import HarnessError
from harness.tasks.vqa import VQA, VQAOptions, closed_list


@pytest.fixture(scope="module")
def albef() -> Host:
    return load_host("albef-tiny", None, "cpu", "float32")


def put(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def with_list(*answers: str) -> ImageTextSet:
    return ImageTextSet((), answers=answers)


def test_the_list_of_the_data_comes_before_that_of_the_weights(albef: Host, tmp_path: Path) -> None:
    named = VQAOptions(answers=str(put(tmp_path / "list.json", ["blue", "red"])))
    assert closed_list(albef, with_list(), VQAOptions()).account() == {
        "source": "weights",
        "answers": len(albef.answers),
        "unsayable": 0,
    }
    assert closed_list(albef, with_list("red", "green"), VQAOptions()).answers == ("red", "green")
    assert closed_list(albef, with_list("red", "green"), named).answers == ("blue", "red")


def test_fine_tuned_weights_without_a_list_rank_that_of_the_data() -> None:
    host = load_host("blip-tiny", task_weights("blip-tiny", None, "vqa"), "cpu", "float32")
    listed = with_list("two squares", "red")
    found = closed_list(replace(host, answers=()), listed, VQAOptions())
    assert (found.answers, found.source, found.unsayable) == (("two squares", "red"), "data", 0)
    with pytest.raises(HarnessError, match="and the data brings none; name one with --answers"):
        closed_list(replace(host, answers=()), with_list(), VQAOptions())


def test_answers_without_a_word_are_counted_and_never_given(
    albef: Host, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = closed_list(albef, with_list("red", "two squares", "zyzzyva"), VQAOptions())
    assert (found.answers, found.unsayable) == (("red",), 2)
    VQA().check(albef, with_list("red", "two squares", "zyzzyva"), VQAOptions())
    assert "albef-tiny has no word for 2 answers of the list" in capsys.readouterr().err
    # None left: the set can be measured all the same, by the host's own.
    assert closed_list(albef, with_list("two squares"), VQAOptions()).source == "weights"
    alone = VQAOptions(answers=str(put(tmp_path / "list.json", ["two squares"])))
    with pytest.raises(HarnessError, match="albef-tiny has a word for none of its answers"):
        closed_list(albef, with_list(), alone)


def test_classes_keep_the_order_of_their_weights(tmp_path: Path) -> None:
    model = build_host("meter-tiny", answer_classes=2)
    tokenizer: Any = None
    host = Host("meter-tiny", model, tokenizer, ("yes", "no"), torch.device("cpu"), torch.float32)
    assert closed_list(host, with_list("no", "yes", "red"), VQAOptions()).answers == ("yes", "no")
    named = VQAOptions(answers=str(put(tmp_path / "list.json", ["no", "yes"])))
    with pytest.raises(HarnessError, match="answers by class, in the order of the list that came with its weights"):
        closed_list(host, with_list(), named)
    assert closed_list(replace(host, answers=()), with_list("red"), named).answers == ("no", "yes")


@pytest.mark.parametrize("content", [["red", None], ["red", ""], [], {"red": 1}, ["red", 7]])
def test_a_list_that_holds_other_things_than_texts_is_refused_as_an_option(tmp_path: Path, content: Any) -> None:
    path = put(tmp_path / "list.json", content)
    with pytest.raises(HarnessError, match=r"list\.json: (answer 1|expected a JSON list)"):
        VQAOptions(answers=str(path))


def test_a_list_that_changes_is_another_cell(tmp_path: Path) -> None:
    path = put(tmp_path / "list.json", ["red"])
    before = VQAOptions(answers=str(path)).model_dump()
    put(path, ["blue"])
    assert VQAOptions(answers=str(path)).model_dump() != before
    with pytest.raises(HarnessError, match="its content has changed since the command began"):
        VQAOptions.model_validate(before)


def test_answer_ranks_the_list_that_lies_beside_the_questions(tmp_path: Path) -> None:
    world, out = tmp_path / "world", tmp_path / "answers.json"
    write_scenes(world, "val", 3, 0)
    for answers in (["purple"], ["blue"]):
        put(world / "answer_list.json", answers)
        with pytest.raises(SystemExit) as ended:
            main(["answer", "--data", str(world / "questions_val.json"), "--out", str(out), "--quiet"])
        assert ended.value.code == 0
        assert {one["answer"] for one in json.loads(out.read_text())} == set(answers)
    named = put(tmp_path / "named.json", ["red"])
    words = ["answer", "--data", str(world / "questions_val.json"), "--answers", str(named), "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--quiet"])
    assert ended.value.code == 0
    assert {one["answer"] for one in json.loads(out.read_text())} == {"red"}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--set-task", "vqa.beams=2"], "--set-task vqa.beams: vqa is not measured here (retrieval)"),
        (["--answers", "list.json"], "--answers: vqa is not measured here (retrieval)"),
    ],
)
def test_options_of_tasks_that_are_not_measured_are_refused(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "--method", "tome", "--ratios", "0.7", "--tasks", "retrieval", *words])
    assert ended.value.code == 2
    assert line in capsys.readouterr().err
