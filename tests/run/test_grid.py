"""Facts about the cells of a request: who gets one per seed, what tells two of them apart, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from harness.data.scenes import write_scenes
from harness.hosts.build import build_host
from harness.hosts.weights.find import assets_of
from harness.hosts.weights.own import save_weights
from harness.kit.errors import HarnessError
from harness.run.cell import Cell
from harness.run.grid import plan_cells
from harness.run.plan import plan_rows, render_plan
from harness.run.request import QUICK_IMAGES, RunRequest
from harness.run.settings import variants


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen scenes to evaluate, in val/, and a dozen to train on, in train/."""
    folder = tmp_path_factory.mktemp("worlds")
    for split in ("val", "train"):
        write_scenes(folder / split, split, 12, 0)
    return folder


def asked(worlds: Path, **changes: Any) -> RunRequest:
    plain: dict[str, Any] = {"methods": ("elip", "random"), "ratios": (0.5,), "tasks": ("vqa",), "device": "cpu"}
    if changes.get("protocol", "inference") != "inference":
        changes = {"training": {"finetune": {"data": str(worlds / "train"), "steps": 2}}} | changes
    return RunRequest(**plain | {"data": str(worlds / "val")} | changes)


def planned(worlds: Path, **changes: Any) -> list[Cell]:
    return plan_cells(asked(worlds, **changes))


def names(cells: list[Cell]) -> list[tuple[str, int]]:
    return [(cell.method, cell.seed) for cell in cells]


def test_in_inference_a_seed_is_only_for_what_draws(worlds: Path) -> None:
    cells = planned(worlds, seeds=(3, 4))
    assert names(cells) == [("dense", 3), ("elip", 3), ("random", 3), ("random", 4)]
    assert [cell.config["seed"] for cell in cells if cell.method == "random"] == [3, 4]


def test_a_draw_that_is_set_is_one_whatever_the_seeds(worlds: Path) -> None:
    cells = planned(worlds, methods=("random",), seeds=(3, 4), settings={"seed": 9})
    assert names(cells) == [("dense", 3), ("random", 3)]
    assert cells[1].config["seed"] == 9


def test_a_quick_cell_is_no_other_with_the_same_images(worlds: Path) -> None:
    quick, short, whole = (planned(worlds, **one) for one in ({"quick": True}, {"limit": QUICK_IMAGES}, {}))
    assert {cell.limit for cell in quick} == {QUICK_IMAGES}
    assert {cell.key for cell in quick}.isdisjoint(cell.key for cell in [*short, *whole])
    assert [cell.model_dump() | {"quick": True} for cell in short] == [cell.model_dump() for cell in quick]
    assert all("quick" not in cell.model_dump(mode="json") for cell in short)


def test_cells_that_keep_no_times_are_the_same_on_every_machine_and_others_are_not(
    worlds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys(**changes: Any) -> list[list[str]]:
        found = []
        for machine, threads in (("EPYC, 24 GiB", 1), ("Xeon, 24 GiB", 2)):
            monkeypatch.setattr("harness.run.grid.hardware", lambda _, name=machine: name)
            monkeypatch.setattr("torch.get_num_threads", lambda count=threads: count)
            found.append([cell.key for cell in planned(worlds, **changes)])
        return found

    here, there = keys(any_machine=True)
    assert here == there
    here, there = keys()
    assert set(here).isdisjoint(there)


def test_a_limit_goes_before_that_of_quick(worlds: Path) -> None:
    assert {cell.limit for cell in planned(worlds, quick=True, limit=7)} == {7}


@pytest.mark.parametrize("protocol", ["finetune", "pretrain"])
def test_training_is_done_with_every_seed_dense_included(worlds: Path, protocol: str) -> None:
    cells = planned(worlds, protocol=protocol, seeds=(3, 4))
    assert names(cells) == [(method, seed) for seed in (3, 4) for method in ("dense", "elip", "random")]
    for cell in cells:
        assert {stage.seed for stage in cell.training} == {cell.seed}
        assert [stage.method for stage in cell.training] == [cell.method, "dense"][: len(cell.training)]
        assert cell.training[0].config == cell.config
        assert (cell.base == cell.weights == "") == (protocol == "pretrain")


def test_cells_come_by_task_and_dense_comes_first(worlds: Path) -> None:
    cells = planned(worlds, tasks=("vqa", "retrieval"), ratios=(0.7, 0.5), methods=("dense", "elip"))
    by_task = [("dense", 1.0), ("elip", 0.7), ("elip", 0.5)]
    assert [(cell.task, cell.method, cell.ratio) for cell in cells] == [
        (task, *pair) for task in ("vqa", "retrieval") for pair in by_task
    ]


def test_seeds_come_one_after_the_other_and_tasks_together_where_weights_are_trained(worlds: Path) -> None:
    cells = planned(
        worlds,
        protocol="pretrain",
        tasks=("vqa", "retrieval"),
        ratios=(0.7, 0.5),
        methods=("dense", "evit"),
        seeds=(1, 0),
    )
    by_training = [("dense", 1.0), ("evit", 0.7), ("evit", 0.5)]
    assert [(cell.seed, cell.method, cell.ratio, cell.task) for cell in cells] == [
        (seed, *pair, task) for seed in (0, 1) for pair in by_training for task in ("vqa", "retrieval")
    ]


def test_what_a_result_depends_on_changes_the_key_and_the_place_of_files_does_not(worlds: Path, tmp_path: Path) -> None:
    weights = shutil.copytree(assets_of("albef-tiny"), tmp_path / "weights")
    plain: dict[str, Any] = {"methods": ("evit",), "weights": weights}
    keys = {"plain": planned(worlds, **plain)[1].key}
    shutil.copytree(weights, tmp_path / "elsewhere")
    assert planned(worlds, **plain | {"weights": tmp_path / "elsewhere"})[1].key == keys["plain"]
    options = {"vqa": {"blank_images": True}}
    for change in ({"split": "val"}, {"limit": 3}, {"batch_size": 2}, {"dtype": "float64"}, {"task_options": options}):
        keys[str(change)] = planned(worlds, **plain, **change)[1].key
    for name in ("config.json", "vocab.txt"):  # the closed list of answers, and the words
        path = weights / name
        path.write_text(path.read_text().replace("red", "rose"))
        keys[name] = planned(worlds, **plain)[1].key
    data = shutil.copytree(worlds / "val", tmp_path / "val")
    keys["data"] = planned(worlds, **plain, data=str(data))[1].key
    captions = data / "captions_val.json"
    captions.write_text(captions.read_text().replace("red", "rosy"))
    keys["captions"] = planned(worlds, **plain, data=str(data))[1].key
    assert len(set(keys.values())) == len(keys)


def test_each_task_has_the_weights_of_its_folder_and_all_have_one_base(worlds: Path, tmp_path: Path) -> None:
    save_weights(build_host("albef-tiny"), tmp_path / "model.safetensors", "albef-tiny")
    save_weights(build_host("albef-tiny", task="nlvr2"), tmp_path / "nlvr2" / "model.safetensors", "albef-tiny")
    cells = planned(worlds, methods=("dense",), tasks=("retrieval", "classification", "nlvr2"), weights=tmp_path)
    assert len({cell.base for cell in cells}) == 1
    weights = [cell.weights for cell in cells]
    assert weights[0] == weights[1] != weights[2]
    trained = planned(worlds, methods=("dense",), tasks=("nlvr2",), weights=tmp_path, protocol="finetune")
    assert trained[0].weights == weights[0]


def test_evaluation_is_at_the_size_of_the_last_training(worlds: Path) -> None:
    training = {
        "pretrain": {"image_size": 32, "data": str(worlds / "train"), "steps": 2},
        "finetune": {"image_size": 48, "data": str(worlds / "train"), "steps": 2},
    }
    cells = planned(worlds, protocol="pretrain", training=training, tasks=("classification", "vqa"), methods=())
    assert {(cell.task, cell.image_size) for cell in cells} == {("classification", 32), ("vqa", 48)}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": "zero-shot"}, "unknown protocol 'zero-shot': known: finetune, inference, pretrain"),
        ({"training": {"finetune": {"steps": 3}}}, "protocol inference has no such stage"),
        ({"training": {"tuning": {"steps": 3}}}, "unknown stage of training 'tuning'"),
        ({"data": "nowhere"}, "data 'nowhere': no such folder or file"),
        ({"weights": Path("nowhere.safetensors")}, "weights nowhere.safetensors: no such file"),
        ({"model": "clip-small"}, "no weights ship with it"),
        (
            {"data": "scenes", "image_size": 32},
            "image size 32: scenes are drawn, and their captions written, for 64 pixels",
        ),
        (
            {"data": "scenes", "protocol": "pretrain", "training": {"finetune": {"image_size": 32}}},
            "image size 32: scenes are drawn, and their captions written, for 64 pixels",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    worlds: Path, changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.run.grid.scenes_folder", lambda *_, **__: worlds / "val")
    if changes.get("protocol") == "zero-shot":
        changes = changes | {"training": {}}
    with pytest.raises(HarnessError) as caught:
        planned(worlds, **changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_tells_tokens_and_training_of_every_cell(worlds: Path, tmp_path: Path) -> None:
    request = asked(worlds, protocol="pretrain", tasks=("vqa", "classification"), methods=("evit",), seeds=(0, 1))
    rows = plan_rows(request, tmp_path)
    assert [row["cell"] for row in rows if "evit" in row["cell"]] == [
        f"albef-tiny evit 0.5 {task}{seed}" for seed in ("", " seed 1") for task in ("vqa", "classification")
    ]
    assert [row["training"] for row in rows[:3]] == [
        ["pretrain dense", "finetune dense"],
        ["pretrain dense"],
        ["pretrain evit", "finetune dense"],
    ]
    assert rows[-1]["training"] == ["pretrain evit"]
    assert {row["ratio"] for row in rows} == {1.0, rows[2]["ratio"]}
    assert not any(row["done"] for row in rows)
    told = render_plan(rows).splitlines()
    assert told[3].endswith("; pretrain evit; finetune dense")
    assert told[-1].startswith("8 cells, 8 to run")


@pytest.mark.parametrize("method", ["flip", "resize"])
def test_what_reduces_in_training_alone_is_refused_where_nothing_is_trained(worlds: Path, method: str) -> None:
    with pytest.raises(
        HarnessError, match=rf"method {method} reduces in training alone.*--protocol finetune or pretrain"
    ):
        planned(worlds, methods=(method,))
    assert [cell.method for cell in planned(worlds, methods=(method,), protocol="finetune")] == ["dense", method]


def test_a_setting_of_one_method_reaches_it_alone(worlds: Path) -> None:
    cells = planned(worlds, methods=("elip", "evit"), settings={"elip.vision_weight": 0.3, "evit.fuse": False})
    by_method = {cell.method: cell.config for cell in cells}
    assert by_method["elip"]["vision_weight"] == 0.3
    assert by_method["evit"]["fuse"] is False
    with pytest.raises(HarnessError, match=r"--set tome.r: tome is not measured here \(elip, evit\)"):
        planned(worlds, methods=("elip", "evit"), settings={"tome.r": 8})
    with pytest.raises(HarnessError, match="nope: unknown setting; ELIPConfig has"):
        planned(worlds, methods=("elip", "evit"), settings={"elip.nope": 8})


def test_values_that_are_swept_are_a_cell_each(worlds: Path) -> None:
    cells = planned(worlds, methods=("elip", "evit"), settings={"elip.vision_weight": [0.2, 0.5, 0.8]})
    assert [cell.config["vision_weight"] for cell in cells if cell.method == "elip"] == [0.2, 0.5, 0.8]
    assert [cell.method for cell in cells] == ["dense", "elip", "elip", "elip", "evit"]
    assert len({cell.key for cell in cells}) == 5


def test_a_field_that_takes_a_list_is_swept_by_a_list_of_lists() -> None:
    assert variants({"blocks": [1, 2]}, "bat") == [{"blocks": [1, 2]}]
    assert variants({"bat.blocks": [[1, 2], [3]]}, "bat") == [{"blocks": [1, 2]}, {"blocks": [3]}]
    assert variants({"vision_weight": 0.1, "elip.vision_weight": [0.2, 0.3]}, "elip") == [
        {"vision_weight": 0.2},
        {"vision_weight": 0.3},
    ]
    assert variants({"vision_weight": [1, 2], "count_class_token": [True, False]}, "elip")[1] == {
        "vision_weight": 1,
        "count_class_token": False,
    }
    with pytest.raises(HarnessError, match="combinations for elip; expected 1,000 at most"):
        variants({"vision_weight": list(range(2000))}, "elip")
