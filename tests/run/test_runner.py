"""Facts about running cells here: what is kept, recounted, and what becomes of failures."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT, Progress
from harness.run.cell import Cell, cost_code
from harness.run.claims import claimed
from harness.run.executors import named_executor
from harness.run.here import Here
from harness.run.measure import skeleton_record
from harness.run.runner import costs_are_old, summary
from harness.run.store import Store
from harness.train.protocol import Stage

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

    def __init__(self, score: Callable[[Cell], float], *, latency: bool = True) -> None:
        self.score, self.latency = score, latency
        self.prepared: list[Cell] = []
        self.ran: list[Cell] = []
        self.recounted: list[Cell] = []
        self.code: Callable[[Cell], dict[str, str]] = lambda cell: cost_code(cell.model, cell.method)

    def prepare(self, cell: Cell) -> None:
        self.prepared.append(cell)

    def run(self, cell: Cell) -> tuple[dict[str, Any], pd.DataFrame]:
        self.ran.append(cell)
        samples = {"task": cell.task, "metric": "accuracy", "sample": list("abc"), "cluster": list("abc")}
        record = skeleton_record(cell) | {"status": "done", "throughput": SPEED, "cost": self.cost(cell)}
        return record, pd.DataFrame(samples | {"value": self.score(cell)})

    def cost(self, cell: Cell) -> dict[str, Any]:
        return {"code": self.code(cell), "latency": {"ratio": 1.0} if self.latency else None}

    def recount(self, cell: Cell, record: dict[str, Any]) -> dict[str, Any]:
        self.recounted.append(cell)
        return self.cost(cell) | {"before": record["cost"]["code"]}


def run(cells: list[Cell], folder: Path, score: Callable[[Cell], float], **options: Any) -> list[dict[str, Any]]:
    measurer: Any = Scripted(score)
    return list(Here().run(cells, Store(folder), measurer, **options))


def test_each_cell_is_announced_with_the_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measurer: Any = Scripted(lambda _: 0.5)
    measurer.progress = Progress()
    list(Here().run([cell()], Store(tmp_path), measurer))
    capsys.readouterr()
    list(Here().run([cell(), cell("elip"), cell("evit")], Store(tmp_path), measurer))
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "[1/3] albef-tiny dense 1 vqa (kept)",
        "[2/3] albef-tiny elip 0.5 vqa",
        "    accuracy 0.500 [0.500, 0.500]; 12.3 questions/s, model alone 20.0",
        "[3/3] albef-tiny evit 0.5 vqa, about 1 s left",
        "    accuracy 0.500 [0.500, 0.500]; 12.3 questions/s, model alone 20.0",
    ]


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
    assert summary(records[1]) == f"{status}: {records[1]['error']}"
    assert {record["key"] for record in Store(tmp_path).records()} == {record["key"] for record in records}


def test_what_is_kept_is_not_measured_again_but_for_force(tmp_path: Path) -> None:
    cells = [cell(), cell("elip")]
    first = run(cells, tmp_path, lambda _: 0.5)
    assert run(cells, tmp_path, lambda _: 1 / 0) == first
    forced = run(cells, tmp_path, lambda one: 0.75 if one.method == "dense" else 0.5, force=True)
    assert [record["quality"]["vqa"]["accuracy"]["value"] for record in forced] == [0.75, 0.5]
    assert len(Store(tmp_path).records()) == 2


def test_a_record_is_summed_up_by_its_first_metric_and_its_speed(tmp_path: Path) -> None:
    (record,) = run([cell()], tmp_path, lambda _: 0.5)
    assert summary(record) == "accuracy 0.500 [0.500, 0.500]; 12.3 questions/s, model alone 20.0"


def test_cells_are_independent_and_a_failed_one_is_run_again_alone(tmp_path: Path) -> None:
    cells = [cell("elip"), cell(), cell("evit")]
    fails = {"dense"}

    def score(one: Cell) -> float:
        if one.method in fails:
            raise ValueError("lost\nin the second line: more")
        return 0.5

    records = run(cells, tmp_path, score)
    assert [record["status"] for record in records] == ["done", "failed", "done"]
    assert (records[1]["error"], "ValueError: lost" in records[1]["traceback"]) == ("lost", True)
    fails.clear()
    measurer: Any = Scripted(score)
    again = list(Here().run(cells, Store(tmp_path), measurer))
    assert measurer.ran == measurer.prepared == [cells[1]]
    assert [again[0], again[2]] == [records[0], records[2]]


def test_a_record_is_yielded_as_soon_as_it_is_saved(tmp_path: Path) -> None:
    measurer: Any = Scripted(lambda _: 0.5)
    cells = [cell(), cell("elip")]
    records = Here().run(cells, Store(tmp_path), measurer)
    assert next(records)["key"] == cells[0].key
    assert measurer.ran == cells[:1]
    assert list(Store(tmp_path).find(one.key for one in cells)) == [cells[0].key]


def test_costs_that_other_code_counted_are_counted_again_and_nothing_else(tmp_path: Path) -> None:
    measurer: Any = Scripted(lambda _: 0.5)
    measurer.code = lambda _: {"harness/cost": "before"}
    cells = [cell(), cell("elip")]
    first = list(Here().run(cells, Store(tmp_path), measurer))
    assert [costs_are_old(*pair) for pair in zip(cells, first, strict=True)] == [True, True]
    later: Any = Scripted(lambda _: 1 / 0)
    again = list(Here().run(cells, Store(tmp_path), later))
    assert (later.ran, later.prepared, later.recounted) == ([], [], cells)
    for one, before, after in zip(cells, first, again, strict=True):
        code = {"code": cost_code(one.model, one.method), "before": {"harness/cost": "before"}}
        assert after["cost"] == code | {"latency": {"ratio": 1.0}}
        assert {**after, "cost": before["cost"], "digest": before["digest"]} == before
        assert Store(tmp_path).samples(after).equals(Store(tmp_path).samples(before))
    assert list(Here().run(cells, Store(tmp_path), later)) == again
    assert later.recounted == cells


def test_what_was_measured_without_latency_is_timed_by_a_run_that_asks_for_it_and_kept_by_one_that_does_not(
    tmp_path: Path,
) -> None:
    without: Any = Scripted(lambda _: 0.5, latency=False)
    (first,) = Here().run([cell()], Store(tmp_path), without)
    assert first["cost"]["latency"] is None
    assert list(Here().run([cell()], Store(tmp_path), without)) == [first]
    timed: Any = Scripted(lambda _: 1 / 0)
    (again,) = Here().run([cell()], Store(tmp_path), timed)
    assert (timed.ran, again["cost"]["latency"], again["quality"]) == ([], {"ratio": 1.0}, first["quality"])
    assert list(Here().run([cell()], Store(tmp_path), without)) == [again]
    assert without.recounted == []


def test_a_cell_that_keeps_no_times_is_never_timed_afterwards(tmp_path: Path) -> None:
    untimed = cell(hardware=None, threads=None)
    (first,) = Here().run([untimed], Store(tmp_path), Scripted(lambda _: 0.5, latency=False))
    later: Any = Scripted(lambda _: 1 / 0)
    assert list(Here().run([untimed], Store(tmp_path), later)) == [first]
    assert (later.ran, later.recounted) == ([], [])


def test_a_failed_cell_has_no_costs_to_count_again(tmp_path: Path) -> None:
    (record,) = run([cell()], tmp_path, lambda _: 1 / 0)
    assert record["cost"] is None
    assert not costs_are_old(cell(), record)


def test_executors_that_do_not_exist_are_refused_with_those_that_do() -> None:
    assert isinstance(named_executor("here"), Here)
    with pytest.raises(HarnessError, match="unknown executor 'hre': did you mean here"):
        named_executor("hre")


def test_cells_that_another_command_measures_are_left_for_later_and_taken_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [cell(), cell("elip"), cell("evit")]
    other: Any = Scripted(lambda _: 0.25)
    measurer: Any = Scripted(lambda _: 0.5)
    measurer.progress = Progress()
    slept = list[float]()
    with ExitStack() as theirs:
        assert theirs.enter_context(claimed(cells[0], tmp_path))

        def end_the_other(seconds: float) -> None:
            slept.append(seconds)
            if len(slept) == 2:  # it waits while nothing has changed
                theirs.close()
                list(Here().run(cells[:1], Store(tmp_path), other))

        monkeypatch.setattr("harness.run.here.time.sleep", end_the_other)
        records = list(Here().run(cells, Store(tmp_path), measurer))
    assert slept == [2.0, 2.0]
    assert (measurer.ran, other.ran) == (cells[1:], cells[:1])
    assert [record["key"] for record in records] == [one.key for one in (*cells[1:], cells[0])]
    assert [record["quality"]["vqa"]["accuracy"]["value"] for record in records] == [0.5, 0.5, 0.25]
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(" ")]
    assert said == [
        "[2/3] albef-tiny elip 0.5 vqa",
        "[3/3] albef-tiny evit 0.5 vqa, about 1 s left",
        "waiting for another command, which measures 1 of the cells",
        "[1/3] albef-tiny dense 1 vqa (measured by another command)",
    ]
    assert not list(tmp_path.glob(".*"))


def test_cells_of_one_training_are_claimed_together_and_those_of_others_are_not(tmp_path: Path) -> None:
    def trained(method: str, task: str) -> Cell:
        return cell(method).model_copy(update={"task": task, "training": (stage(method),)})

    def stage(method: str) -> Stage:
        whole: dict[str, Any] = {"recipe": {}, "seed": 0, "processes": 1, "data": (), "digests": {}}
        return Stage(stage="pretrain", model="albef-tiny", method=method, **whole)

    with claimed(trained("elip", "vqa"), tmp_path) as mine:
        assert mine
        for other, free in (("elip", False), ("evit", True)):
            with claimed(trained(other, "retrieval"), tmp_path) as theirs:
                assert theirs is free
    with claimed(trained("elip", "retrieval"), tmp_path) as mine:
        assert mine


def test_where_the_file_system_has_no_locks_cells_are_measured_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    monkeypatch.setattr("harness.run.claims.FileLock.acquire", refuse)
    assert [record["status"] for record in run([cell(), cell("elip")], tmp_path, lambda _: 0.5)] == ["done", "done"]
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {tmp_path}: its file system has no locks: let one command at a time fill it"
    ]
