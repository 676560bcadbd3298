"""Cells to records: run what is not there yet, keep failures as records, compare with dense."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch

from harness.bench import Bench, is_out_of_memory, skeleton_record
from harness.cell import Cell
from harness.environment import environment
from harness.errors import HarnessError
from harness.parallel import by_first
from harness.ranks import rank
from harness.stats import quality
from harness.store import Store

Record = dict[str, Any]


def run_cells(cells: Sequence[Cell], store: Store, bench: Bench, *, force: bool = False) -> list[Record]:
    """Run the cells that have no record yet; returns all their records in the cells' order.

    A cell that fails or runs out of memory becomes a record of that status and the run goes on; a save that fails,
    and Ctrl-C, end the run with the records so far kept. Of several processes all evaluate, the first alone measures
    costs, saves, and has records to return.
    """
    kept = by_first(lambda: {} if force else {cell.key: store.find(cell.key) for cell in cells})
    for cell in cells:
        if kept.get(cell.key) is None:
            bench.prepare(cell)
    records: list[Record] = []
    first = rank() == 0
    dense: dict[tuple[Any, ...], Record] = {}
    for number, cell in enumerate(cells, 1):
        record = kept.get(cell.key)
        bench.progress.say(f"[{number}/{len(cells)}] {cell.label}{' (kept)' if record else ''}")
        reference = dense.get(_board(cell, cell.seed)) or dense.get(_board(cell, None))
        if record is None:
            record = _measure(cell, store, bench, reference)
            if record:
                bench.progress.say(f"    {told(record)}")
        elif first and _lacks_deltas(record) and reference is not None and reference["status"] == "done":
            # Dense had failed when this cell ran: compare now.
            found = quality(store.samples(record), store.samples(reference))
            record = store.save({**record, "quality": found}, store.samples(record))
        if cell.method == "dense" and record:
            dense[_board(cell, cell.seed)] = record
            dense.setdefault(_board(cell, None), record)
        records.append(record)
    return records if first else []


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
    """What a cell shares with the dense cell that it is compared with."""
    return cell.model, cell.base, cell.weights, cell.data, cell.split, cell.task, seed


def _lacks_deltas(record: Mapping[str, Any]) -> bool:
    figures = [metric for task in record["quality"].values() for metric in task.values()]
    return record["spec"]["method"] != "dense" and any(metric["delta_to_dense"] is None for metric in figures)


def _measure(cell: Cell, store: Store, bench: Bench, dense: Record | None) -> Record:
    """Run a cell, compare it with dense, and save its record whatever came of it; nothing but in the first process."""
    try:
        record, samples = bench.run(cell)
        if rank() > 0:
            return {}
        compared = cell.method != "dense" and dense is not None and dense["status"] == "done"
        record["quality"] = quality(samples, store.samples(dense) if compared and dense else None)
    except Exception as error:  # noqa: BLE001 - a cell that fails is a record too, and the command ends with status 1
        status = "out_of_memory" if is_out_of_memory(error) else "failed"
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = None if isinstance(error, HarnessError) else traceback.format_exc()
        record = {
            **skeleton_record(cell),
            "status": status,
            "error": line,
            "traceback": where,
            "run": environment(cell, datetime.now(UTC), 0.0),
        }
        return store.save(record, None) if rank() == 0 else {}
    return store.save(record, samples)
