"""One cell to its record: measured, kept as a failure, or its costs counted again."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pandas as pd
import torch

from harness.kit.distributed import on_main_process, rank
from harness.kit.errors import HarnessError, is_out_of_memory
from harness.kit.provenance import environment, hardware
from harness.metrics.stats import quality
from harness.run.cell import Cell, cost_code
from harness.run.measure import Measurer, skeleton_record
from harness.run.store import Record, Store


def measured(cell: Cell, measurer: Measurer) -> tuple[Record, pd.DataFrame | None]:
    """The record of a cell that is run now, whatever comes of it, and its samples where it was done."""
    try:
        record, samples = measurer.run(cell)
        return {**record, "quality": quality(samples)}, samples
    except Exception as error:  # noqa: BLE001 - a cell that fails is a record too, and the command ends with status 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return _failed(cell, error), None


def recounted(cell: Cell, record: Record, store: Store, measurer: Measurer) -> Record:
    """A kept record, its costs counted anew and saved where other code counted them, or nothing was timed; all
    processes call this.
    """
    untimed = measurer.latency and cell.timed and record["cost"] is not None and record["cost"]["latency"] is None
    if not untimed and not costs_are_old(cell, record):
        return record
    cost = on_main_process(partial(measurer.recount, cell, record))
    return store.save({**record, "cost": cost}, store.samples(record)) if rank() == 0 else record


def costs_are_old(cell: Cell, record: Record) -> bool:
    """Whether a record's costs were counted by other code: they are counted anew, its quality stays."""
    cost = record["cost"]
    return cost is not None and cost["code"] != cost_code(cell.model, cell.method)


def summary(record: Mapping[str, Any]) -> str:
    """What came of a cell, in a line: its first metric with the interval, and how fast it went."""
    if record["status"] != "done":
        return f"{record['status']}: {record['error']}"
    words = []
    for metrics in record["quality"].values():
        name, figures = next(iter(metrics.items()))
        low, high = figures["ci95"]
        words.append(f"{name} {figures['value']:.3f} [{low:.3f}, {high:.3f}]")
    if speed := record["throughput"]:
        whole, model = speed["end_to_end_per_second"], speed["model_per_second"]
        words.append(f"{whole:.1f} {speed['unit']}/s, model alone {model:.1f}")
    return "; ".join(words)


def _failed(cell: Cell, error: Exception) -> Record:
    """The record of a cell that ended with an error."""
    return {
        **skeleton_record(cell),
        "status": "out_of_memory" if is_out_of_memory(error) else "failed",
        "error": str(error).splitlines()[0] if str(error) else type(error).__name__,
        "traceback": None if isinstance(error, HarnessError) else "".join(traceback.format_exception(error)),
        "run": environment(hardware(torch.device(cell.device)), cell.dtype, cell.seed, datetime.now(UTC), 0.0),
    }
