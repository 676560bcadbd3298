"""Facts about running cells: with which dense each is compared, what is kept, and what becomes of failures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT, Progress
from harness.run.cell import Cell
from harness.run.measure import skeleton_record
from harness.run.runner import run_cells, told
from harness.run.store import Store

SPEED = {"unit": "questions", "end_to_end_per_second": 12.34, "model_per_second": 20.0}


def cell(method: str = "dense", **changes: Any) -> Cell:
    plain: dict[str, Any] = {
        "model": "albef-tiny",
        "weights": "w",
        "base": "b",
        "method": method,
        "config": {},
        "ratio": 1.0 if method == "dense" else 0.5,
        "schedule": "paper",
        "match": "tokens",
        "protocol": "inference",
        "task": "vqa",
        "task_options": {},
        "data": "d",
        "data_digest": "d",
        "split": None,
        "limit": None,
        "device": "cpu",
        "hardware": "CPU",
        "threads": 1,
        "dtype": "float32",
        "batch_size": 4,
        "image_size": 64,
        "seed": 0,
        "code": {"harness/tasks/vqa.py": "c"},
    }
    return Cell(**plain | changes)


class Scripted:
    """A measurer whose cells score what `score` says of them, the same on each of three images."""

    progress = SILENT

    def __init__(self, score: Callable[[Cell], float]) -> None:
        self.score = score
        self.prepared: list[Cell] = []
        self.ran: list[Cell] = []

    def prepare(self, cell: Cell) -> None:
        self.prepared.append(cell)

    def run(self, cell: Cell) -> tuple[dict[str, Any], pd.DataFrame]:
        self.ran.append(cell)
        samples = {"task": cell.task, "metric": "accuracy", "sample": list("abc"), "cluster": list("abc")}
        record = skeleton_record(cell) | {"status": "done", "throughput": SPEED}
        return record, pd.DataFrame(samples | {"value": self.score(cell)})


def run(cells: list[Cell], folder: Path, score: Callable[[Cell], float], **options: Any) -> list[dict[str, Any]]:
    measurer: Any = Scripted(score)
    return run_cells(cells, Store(folder), measurer, **options)


def deltas(records: list[dict[str, Any]]) -> list[float | None]:
    return [record["quality"][record["spec"]["task"]]["accuracy"]["delta_to_dense"] for record in records]


def test_each_cell_is_announced_with_the_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measurer: Any = Scripted(lambda _: 0.5)
    measurer.progress = Progress()
    run_cells([cell()], Store(tmp_path), measurer)
    capsys.readouterr()
    run_cells([cell(), cell("elip"), cell("evit")], Store(tmp_path), measurer)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "[1/3] albef-tiny dense 1 vqa (kept)",
        "[2/3] albef-tiny elip 0.5 vqa",
        "    accuracy 0.500 [0.500, 0.500]; 12.3 questions/s, model alone 20.0",
        "[3/3] albef-tiny evit 0.5 vqa, about 1 s left",
        "    accuracy 0.500 [0.500, 0.500]; 12.3 questions/s, model alone 20.0",
    ]


def test_what_draws_is_compared_with_the_one_dense_of_its_task(tmp_path: Path) -> None:
    cells = [
        cell(name, task=task, seed=seed)
        for task in ("vqa", "nlvr2")
        for name, seed in (("dense", 0), ("random", 0), ("random", 1))
    ]
    records = run(cells, tmp_path, lambda one: (one.task == "nlvr2") / 2 + (one.method == "dense") / 4 + one.seed / 8)
    assert deltas(records) == [None, -0.25, -0.125] * 2


def test_a_trained_cell_is_compared_with_the_dense_of_its_seed(tmp_path: Path) -> None:
    cells = [cell(name, seed=seed, protocol="finetune") for seed in (0, 1) for name in ("dense", "elip")]
    scores = {("dense", 0): 0.5, ("elip", 0): 0.25, ("dense", 1): 0.25, ("elip", 1): 0.75}
    assert deltas(run(cells, tmp_path, lambda one: scores[one.method, one.seed])) == [None, -0.25, None, 0.5]


@pytest.mark.parametrize("other", [{"model": "blip-tiny"}, {"base": "b2"}, {"task": "nlvr2"}])
def test_dense_of_another_host_set_or_task_is_no_reference(tmp_path: Path, other: dict[str, str]) -> None:
    records = run([cell(), cell("elip", **other), cell(**other), cell("evit", **other)], tmp_path, lambda _: 0.5)
    assert deltas(records) == [None, None, None, 0]


def test_where_dense_of_a_seed_failed_that_of_another_is_no_stand_in(tmp_path: Path) -> None:
    cells = [cell(name, seed=seed, protocol="finetune") for seed in (0, 1) for name in ("dense", "elip")]
    fails = {("dense", 1)}

    def score(one: Cell) -> float:
        if (one.method, one.seed) in fails:
            raise ValueError("lost\nin the second line: more")
        return one.seed + (one.method == "elip") / 4

    records = run(cells, tmp_path, score)
    assert [record["status"] for record in records] == ["done", "done", "failed", "done"]
    assert deltas([records[1], records[3]]) == [0.25, None]
    assert (records[2]["error"], "ValueError: lost" in records[2]["traceback"]) == ("lost", True)
    fails.clear()
    measurer: Any = Scripted(score)
    again = run_cells(cells, Store(tmp_path), measurer)
    assert measurer.ran == measurer.prepared == [cells[2]]
    assert deltas(again) == [None, 0.25, None, 0.25]
    assert Store(tmp_path).find(cells[3].key) == again[3]


@pytest.mark.parametrize(
    ("error", "status", "traced"),
    [
        (HarnessError("fetch the weights"), "failed", False),
        (KeyError(), "failed", True),
        (MemoryError("no room"), "out_of_memory", True),
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory", True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out_of_memory", True),
        (RuntimeError("sizes differ"), "failed", True),
    ],
)
def test_a_failure_is_a_record_and_the_next_cell_is_run(
    tmp_path: Path, error: Exception, status: str, traced: bool
) -> None:
    def score(one: Cell) -> float:
        if one.method == "elip":
            raise error
        return 0.5

    records = run([cell(), cell("elip"), cell("evit")], tmp_path, score)
    assert [record["status"] for record in records] == ["done", status, "done"]
    assert records[1]["error"] == (str(error) or "KeyError")
    assert (records[1]["traceback"] is not None) == traced
    assert told(records[1]) == f"{status}: {records[1]['error']}"
    assert {record["key"] for record in Store(tmp_path).records()} == {record["key"] for record in records}


def test_what_is_kept_is_not_measured_again_but_for_force(tmp_path: Path) -> None:
    cells = [cell(), cell("elip")]
    first = run(cells, tmp_path, lambda _: 0.5)
    assert run(cells, tmp_path, lambda _: 1 / 0) == first
    forced = run(cells, tmp_path, lambda one: 0.75 if one.method == "dense" else 0.5, force=True)
    assert deltas(forced) == [None, -0.25]
    assert len(Store(tmp_path).records()) == 2


def test_a_record_is_told_by_its_first_metric_and_its_speed(tmp_path: Path) -> None:
    (record,) = run([cell()], tmp_path, lambda _: 0.5)
    assert told(record) == "accuracy 0.500 [0.500, 0.500]; 12.3 questions/s, model alone 20.0"
