"""docs/records.md names every key of a record, every column of the Parquet and of the long frame, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from harness.cost.latency import measure_latency
from harness.data.scenes import write_scenes
from harness.kit.progress import Progress
from harness.kit.provenance import environment
from harness.report.frame import to_frame
from harness.run.cell import Cell
from harness.run.compare import NAMES, with_deltas
from harness.run.grid import plan_cells
from harness.run.here import Here
from harness.run.measure import Measurer, skeleton_record
from harness.run.request import RunRequest
from harness.run.store import Record, Store

PAGE = (Path(__file__).parents[2] / "docs" / "records.md").read_text(encoding="utf-8")


def documented(heading: str) -> list[str]:
    """The names in the first column of the tables of a section, its subsections included."""
    section = re.split(r"^## ", PAGE.split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def keys_of(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from keys_of(inner, f"{path}.{name}" if path else name)
    else:
        yield path


def pattern_of(key: str) -> str:
    return re.sub(r"[A-Z]{2,}", "*", key)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Records of dense and EViT in two tasks."""
    folder = tmp_path_factory.mktemp("records")
    write_scenes(folder / "val", "val", 4, 0)
    store = Store(folder / "runs")
    store.prepare()
    request = RunRequest(methods=("evit",), ratios=(0.5,), tasks=("retrieval", "vqa"), data=str(folder / "val"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.cost.report.measure_latency", partial(measure_latency, runs=5, seconds=0.0))
        list(Here().run(plan_cells(request), store, Measurer(None, Progress(quiet=True))))
    return store


def failed(record: Record) -> Record:
    cell = Cell.model_validate(record["spec"])
    run = environment(record["run"]["device"], cell.dtype, cell.seed, datetime.now(UTC), 0.0)
    cell = cell.model_copy(update={"quick": True})
    return {**skeleton_record(cell), "error": "why", "traceback": "how", "run": run, "digest": "d"}


def test_every_key_is_documented_and_none_is_invented(store: Store) -> None:
    patterns = [pattern_of(key) for key in documented("The JSON")]
    records = store.records()
    assert [record["status"] for record in records] == ["done"] * 4
    found = {key for record in [*records, failed(records[0])] for key in keys_of(record)}
    empty = {"spec.config", "cost.config", "cost", "quality", "diagnostics"}
    whole = [pattern for pattern in patterns if pattern not in {"spec.*", "cost.*"}]
    assert {key for key in found - empty if not any(fnmatchcase(key, one) for one in whole)} == set()
    assert {one for one in whole if not any(fnmatchcase(key, one) for key in found)} == set()


def test_the_cell_is_documented_field_by_field() -> None:
    fields = {key.split(".")[1] for key in documented("The JSON") if key.startswith("spec.")} - {"*"}
    assert fields == set(Cell.model_fields)


def test_the_columns_of_the_parquet_are_documented(store: Store) -> None:
    (record, *_) = store.records()
    assert [*store.samples(record).columns, "parts"] == documented("The Parquet")


def test_what_reading_adds_is_documented(store: Store) -> None:
    (compared, *_) = with_deltas(store.records(), store)
    (metrics,) = compared["quality"].values()
    added = {key for entry in metrics.values() for key in entry} - {"value", "ci95", "n"}
    names = {key.rpartition(".")[2] for key in documented("When records are read")}
    assert (
        added | {"over_seeds"}
        == names
        == {"over_seeds", *(name for fields in NAMES.values() for name in fields.values())}
    )


def test_the_columns_of_the_long_frame_are_documented(store: Store) -> None:
    columns = list(to_frame(with_deltas(store.records(), store)).long().columns)
    assert sorted(columns) == sorted(documented("The long frame"))
