"""The columns of one row: a setting's metrics over its seeds, its costs, its throughput and what blank images give."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from harness.report.settings import Record, Setting, steps_of_training

ERRORS = {"failed": "failed", "out_of_memory": "no memory"}
ABSENT = "absent"
NAN = float("nan")
# The costs that tables and figures show; where the tasks' towers see images of different sizes, there is one per task.
SIZED = (
    "token_ratio",
    "forward_gmacs",
    "gmacs_ratio",
    "scoring_share",
    "train_step_ratio",
    "train_mib_per_image",
    "latency_ratio",
)


def row_of(setting: Setting, known: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A row's columns; `known` has the metrics of each task. What is not averaged is of the first seed."""
    records = setting.by_seed()
    spec = records[0]["spec"]
    row: dict[str, Any] = {name: spec.get(name) for name in ("method", "ratio", "schedule", "match")}
    row |= setting.context
    row |= {
        "seeds": tuple(":".join(map(str, seed)) for seed in setting.seeds),
        "config": json.dumps(spec.get("config") or {}, sort_keys=True),
        "keys": tuple(record["key"] for found in setting.records.values() for record in found.values()),
        "training_steps": _stages(records),
    }
    row["limit"] = None if row["limit"] is None else float(row["limit"])
    row["status"] = next((record["status"] for record in records if record["status"] != "done"), "done")
    row |= costs(next((record["cost"] for record in records if record.get("cost")), {}))
    row["fallback"] = next((said for record in records if (said := _diagnostics(record).get("fallback"))), None)
    for task, found in setting.records.items():
        row |= _of_task(task, list(found.values()))
    row |= _costs_by_size(setting)
    for task, metrics in known.items():
        for metric in metrics:
            row |= _metric(metric, task, list(setting.records.get(task, {}).values()))
    return row


def costs(cost: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a cost report; None where it says nothing."""
    forward, dense, train = (cost.get(name) or {} for name in ("forward", "dense", "train_step"))
    memory, latency = cost.get("memory") or {}, cost.get("latency") or {}
    total, step = forward.get("total_gmacs"), train.get("total_gmacs")
    aside = sum(forward.get(f"{part}_gmacs") or 0.0 for part in ("scoring", "matching", "predictor"))
    return {
        "token_ratio": cost.get("ratio"),
        "forward_gmacs": total,
        "main_gmacs": forward.get("main_gmacs"),
        "dense_gmacs": dense.get("forward_gmacs"),
        "gmacs_ratio": _over(total, dense.get("forward_gmacs")),
        "scoring_share": _over(aside, total),
        "train_step_gmacs": step,
        "train_step_ratio": _over(step, dense.get("train_step_gmacs")),
        "train_mib_per_image": memory.get("train_mib_per_image"),
        "memory_source": memory.get("source"),
        "latency_ms": latency.get("median_ms"),
        "latency_ratio": latency.get("ratio"),
        "tokens_per_block": tuple(cost.get("tokens_per_block") or ()),
        "tokens_per_mlp": tuple(cost.get("tokens_per_mlp") or ()),
    }


def _of_task(task: str, records: Sequence[Record]) -> dict[str, Any]:
    """What a row says of a task besides its metrics, from the first seed that has it."""
    spec = records[0]["spec"]
    found: dict[str, Any] = {f"weights_{task}": spec["weights"], f"image_size_{task}": spec.get("image_size")}
    for fate in ("kept", "merged"):
        lists = (_diagnostics(record).get(f"mentioned_{fate}_per_block") for record in records)
        found[f"mentioned_{fate}_{task}"] = next((shares[-1] for shares in lists if shares), None)
    # Of a method that is guided by texts: whether it saw images without one too, with all their tokens.
    encodings = ((record.get("cost") or {}).get("encodings") or {} for record in records)
    unguided = any(_diagnostics(record).get("fallback") for record in records)
    found[f"unguided_{task}"] = unguided and any(made.get("images") for made in encodings)
    if measured := next((record["throughput"] for record in records if record.get("throughput")), None):
        found[f"throughput_{task}"] = measured["end_to_end_per_second"]
        found[f"model_throughput_{task}"] = measured["model_per_second"]
        found[f"throughput_unit_{task}"] = measured["unit"]
        dense = measured.get("dense") or {}
        for name, rate in (("", "end_to_end_per_second"), ("model_", "model_per_second")):
            found[f"{name}throughput_ratio_{task}"] = _over(measured[rate], dense.get(rate))
    return found


def _costs_by_size(setting: Setting) -> dict[str, Any]:
    """Where tasks differ in image size: the size that each task's cost is of, and each task's columns of SIZED."""
    if len(setting.context["image_size"].split()) < 2:
        return {}
    columns: dict[str, Any] = {}
    for task, found in setting.records.items():
        cost: Mapping[str, Any] = next((record["cost"] for record in found.values() if record.get("cost")), {})
        columns[f"cost_size_{task}"] = cost.get("image_size")
        columns |= {f"{name}_{task}": value for name, value in costs(cost).items() if name in SIZED}
    return columns


def _metric(metric: str, task: str, records: Sequence[Record]) -> dict[str, Any]:
    """A metric's columns over the seeds that have a value of it."""
    found = [entry for record in records if (entry := (record.get("quality") or {}).get(task, {}).get(metric))]
    bounds = [entry.get("ci95") or (None, None) for entry in found]
    delta_bounds = [entry.get("delta_ci95") or (None, None) for entry in found]
    values, deltas = ([entry.get(name) for entry in found] for name in ("value", "delta_to_dense"))
    numbers = {
        "": _mean(values),
        "__low": _mean([low for low, _ in bounds]),
        "__high": _mean([high for _, high in bounds]),
        "__sd": _sd(values),
        "__seeds": float(len(found)),
        "__n": _mean([entry.get("n") for entry in found]),
        "__delta": _mean(deltas),
        "__delta_low": _mean([low for low, _ in delta_bounds]),
        "__delta_high": _mean([high for _, high in delta_bounds]),
        "__delta_sd": _sd(deltas),
        "__blind": _mean([(record.get("blind") or {}).get(metric) for record in records]),
    }
    error = next((ERRORS[record["status"]] for record in records if record["status"] in ERRORS), "no value")
    if any(metric in absent_metrics(record) for record in records):
        error = ABSENT
    columns: dict[str, Any] = {f"{metric}{suffix}": value for suffix, value in numbers.items()}
    columns[f"{metric}__error"] = "" if found else error if records else "not run"
    return columns


def absent_metrics(record: Record) -> Mapping[str, str]:
    """The metrics that a record's task has elsewhere and could not measure, and why: SPICE without its parser."""
    return dict(_diagnostics(record).get("absent") or {})


def _mean(values: Sequence[float | None]) -> float:
    there = [float(value) for value in values if value is not None]
    return fmean(there) if there else NAN


def _sd(values: Sequence[float | None]) -> float:
    there = [float(value) for value in values if value is not None]
    return stdev(there) if len(there) > 1 else NAN


def _over(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _diagnostics(record: Record) -> Mapping[str, Any]:
    return record.get("diagnostics") or {}


def _stages(records: Sequence[Record]) -> str:
    """JSON of stage -> the numbers of steps that the row's tasks were trained for in it."""
    found: dict[str, set[int]] = {}
    for record in records:
        for stage, steps in steps_of_training(record["spec"]).items():
            found.setdefault(stage, set()).update(() if steps is None else (steps,))
    return json.dumps({stage: sorted(steps) for stage, steps in found.items()})
