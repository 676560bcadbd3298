"""Cells to records: run what is not there yet, keep failures as records, compare with dense."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeGuard

import pandas as pd
import torch

from harness.kit.errors import HarnessError
from harness.kit.parallel import by_first
from harness.kit.progress import Pace
from harness.kit.provenance import environment
from harness.kit.ranks import rank
from harness.metrics.stats import quality
from harness.run.cell import Cell, cost_code
from harness.run.measure import Bench, is_out_of_memory, skeleton_record
from harness.run.store import Store

Record = dict[str, Any]


def run_cells(cells: Sequence[Cell], store: Store, bench: Bench, *, force: bool = False) -> list[Record]:
    """Run the cells that have no record yet; returns all their records in the cells' order.

    A cell that fails or runs out of memory becomes a record of that status and the run goes on; a save that fails,
    and Ctrl-C, end the run with the records so far kept. Several processes evaluate together; the first alone saves,
    compares with dense, and has records to return.
    """
    kept = by_first(lambda: {} if force else {cell.key: store.find(cell.key) for cell in cells})
    for cell in cells:
        if kept.get(cell.key) is None:
            bench.prepare(cell)
    pace = Pace([cell.task for cell in cells if kept.get(cell.key) is None])
    records: list[Record] = []
    dense: dict[tuple[Any, ...], Record] = {}
    for number, cell in enumerate(cells, 1):
        record = kept.get(cell.key)
        said = " (kept)" if record else pace.told()
        bench.progress.say(f"[{number}/{len(cells)}] {cell.label}{said}")
        reference = None
        if cell.method != "dense":
            reference = dense.get(_board(cell, cell.seed)) or dense.get(_board(cell, None))
        if record is not None and costs_are_old(cell, record):
            # All processes are here or none: `kept` is the same in each.
            cost = by_first(partial(bench.recount, cell, record))
            record = store.save({**record, "cost": cost}, store.samples(record)) if rank() == 0 else record
        if record is None:
            with pace.cell(cell.task):
                record = _measured(cell, store, bench, reference)
        elif rank() == 0 and _lacks_deltas(record) and _is_done(reference):
            # Dense had failed when this cell ran: compare now.
            samples = store.samples(record)
            record = store.save({**record, "quality": quality(samples, store.samples(reference))}, samples)
        if cell.method == "dense":
            dense[_board(cell, cell.seed)] = record
            dense.setdefault(_board(cell, None), record)
        records.append(record)
    return records if rank() == 0 else []


def costs_are_old(cell: Cell, record: Record) -> bool:
    """Whether a record's costs were counted by other code: they are counted anew, its quality stays."""
    cost = record["cost"]
    return cost is not None and cost["code"] != cost_code(cell.model, cell.method)


def told(record: Mapping[str, Any]) -> str:
    """What came of a cell, in a line: its first metric with the interval, and how fast it went."""
    if record["status"] != "done":
        return f"{record['status']}: {record['error']}"
    words = []
    for metrics in record["quality"].values():
        name, figures = next(iter(metrics.items()))
        low, high = figures["ci95"]
        words.append(f"{name} {figures['value']:.3f} [{low:.3f}, {high:.3f}]")
    speed = record["throughput"]
    words.append(f"{speed['end_to_end_per_second']:.1f} {speed['unit']}/s, model alone {speed['model_per_second']:.1f}")
    return "; ".join(words)


def _board(cell: Cell, seed: int | None) -> tuple[Any, ...]:
    """What a cell shares with the dense cell that it is compared with; without a seed where dense has one cell."""
    return cell.model, cell.base, cell.data, cell.split, cell.task, seed


def _is_done(record: Record | None) -> TypeGuard[Record]:
    return record is not None and record["status"] == "done"


def _lacks_deltas(record: Mapping[str, Any]) -> bool:
    figures = [metric for task in record["quality"].values() for metric in task.values()]
    return any(metric["delta_to_dense"] is None for metric in figures)


def _measured(cell: Cell, store: Store, bench: Bench, dense: Record | None) -> Record:
    """The record of a cell that is run now, whatever comes of it; the first process compares with dense and saves."""
    samples: pd.DataFrame | None = None
    try:
        record, samples = bench.run(cell)
        if rank() == 0:
            record["quality"] = quality(samples, store.samples(dense) if _is_done(dense) else None)
    except Exception as error:  # noqa: BLE001 - a cell that fails is a record too, and the command ends with status 1
        record, samples = _failed(cell, error), None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    if rank() == 0:
        record = store.save(record, samples)
        bench.progress.say(f"    {told(record)}")
    return record


def _failed(cell: Cell, error: Exception) -> Record:
    """The record of a cell that ended with an error."""
    return {
        **skeleton_record(cell),
        "status": "out_of_memory" if is_out_of_memory(error) else "failed",
        "error": str(error).splitlines()[0] if str(error) else type(error).__name__,
        "traceback": None if isinstance(error, HarnessError) else "".join(traceback.format_exception(error)),
        "run": environment(cell.hardware, cell.dtype, cell.seed, datetime.now(UTC), 0.0),
    }
