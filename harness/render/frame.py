"""From records to one tidy frame: a row per measured setting, its tasks' metrics and its costs as columns.

A metric `m` has the columns `m` (fraction), `m__low`, `m__high`, `m__n`, `m__delta`, `m__delta_low`,
`m__delta_high` and `m__error` ("" or why there is no value). MACs are in G multiply-adds per image, memory in
MiB per image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.errors import HarnessError

DENSE = "dense"
PLACE = ("device", "hardware", "threads", "dtype")
CONTEXT = ("model", "weights", "protocol", "data", "limit", *PLACE, "image_size", "seed")
PER_TASK = {"task", "task_options", "data_digest", "batch_size", "code"}
PER_RATIO = {"schedule", "attention_tokens", "mlp_tokens"}
ERRORS = {"failed": "failed", "out_of_memory": "no memory"}
# Parts of a metric that is shown itself.
DETAIL = re.compile(
    r"vqa_(yes_no|number|other)|entailment_(?!accuracy).+|bleu_[123]|top5|(probe_)?mean_per_class|probe_top5"
)
RANK = re.compile(r"^(?P<way>t2i|i2t)_r(?P<rank>\d+)(?P<rerank>_rerank)?$")


def to_frame(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per setting, tasks joined; dense first, then by descending ratio and method.

    Where a setting and task were measured more than once (by different code, say), the latest counts;
    `frame.attrs["superseded"]` says how many records that hides. `frame.attrs["failures"]` has a line for
    each failed cell. Raises HarnessError when there are no records.
    """
    latest: dict[tuple[str, str], Mapping[str, Any]] = {}
    total = 0
    for record in sorted(records, key=lambda record: (record.get("run") or {}).get("started") or ""):
        total += 1
        latest[_row_key(record["spec"]), record["spec"]["task"]] = record
    if not latest:
        raise HarnessError("no records: `python -m harness run` measures cells, --runs names their folder")
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for (row, _), record in sorted(latest.items(), key=lambda item: item[0]):
        rows.setdefault(row, []).append(record)
    known = _metrics_of_tasks(latest.values())
    frame = pd.DataFrame([_row(group, known) for group in rows.values()])
    frame["variant"] = _variants(frame)
    order = pd.DataFrame({"dense": frame["method"] != DENSE, "ratio": -_nominal(frame), "method": frame["method"]})
    order = pd.concat([frame[list(CONTEXT)].astype(str), order, frame["variant"]], axis=1)
    frame = frame.loc[order.sort_values(list(order.columns), kind="stable").index].reset_index(drop=True)
    frame.attrs["superseded"] = total - len(latest)
    frame.attrs["failures"] = [_failure(record) for record in latest.values() if record["status"] != "done"]
    return frame


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """The metrics a frame has, in their order of reading."""
    return [name.removesuffix("__error") for name in frame.columns if name.endswith("__error")]


def headline_metrics(frame: pd.DataFrame) -> list[str]:
    """The metrics shown unless others are asked for: of the recalls R@1 only, and no parts of metrics shown."""
    whole = [name for name in metrics_of(frame) if not DETAIL.fullmatch(name)]
    return [name for name in whole if not (match := RANK.match(name)) or match["rank"] == "1"]


def title_of(metric: str) -> str:
    """How tables and figures call a metric: 't2i R@1, re-ranked' for t2i_r1_rerank."""
    if match := RANK.match(metric):
        return f"{match['way']} R@{match['rank']}" + (", re-ranked" if match["rerank"] else "")
    words = metric.replace("_", " ")
    return words.replace("vqa", "VQA").replace("nlvr2", "NLVR2").replace("bleu 4", "BLEU-4").replace("cider", "CIDEr")


def boards(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The frame in parts whose rows may be compared (same model, data, protocol …), each with a title."""
    parts = []
    for _, part in frame.groupby(list(CONTEXT), sort=False, dropna=False):
        first = part.iloc[0]
        limit = "" if pd.isna(first["limit"]) else f", limit {int(first['limit'])}"
        what = (
            first["model"],
            first["protocol"],
            f"{first['data']}{limit}",
            f"{first['image_size']} px",
            first["dtype"],
        )
        parts.append((" · ".join(map(str, what)), part))
    return parts


def study_frame(records: Iterable[Mapping[str, Any]], labels: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The frame of a study's records with a column per field of its labels: dense first, then in the labels'
    order.

    labels: {"keys": [record keys], "label": "early, 3 stages" or None, …} each; without a label the ratio
    stands for it. Dense needs no label. Raises HarnessError when none of the keys has a record.
    """
    wanted = {key for label in labels for key in label["keys"]}
    chosen = [record for record in records if record["key"] in wanted or record["spec"]["method"] == DENSE]
    if not any(record["key"] in wanted for record in chosen):
        raise HarnessError(
            "none of the study's cells has a record yet: run `python -m harness ablate` with its name first"
        )
    frame = to_frame(chosen)
    fields = [{name: value for name, value in label.items() if name not in {"keys", "method"}} for label in labels]
    parts = [frame[frame["method"] == DENSE].assign(label="")]
    for label, extra in zip(labels, fields, strict=True):
        rows = frame[[not set(keys).isdisjoint(label["keys"]) for keys in frame["keys"]]]
        rows = rows[rows["method"] != DENSE]
        extra = {"label": None, **extra}
        if extra["label"] is None:
            extra["label"] = ["paper" if pd.isna(ratio) else f"{ratio:g}" for ratio in rows["ratio"].astype(float)]
        parts.append(rows.assign(**extra))
    merged = pd.concat([part for part in parts if len(part)], ignore_index=True)
    merged.attrs = frame.attrs
    return merged


def _row_key(spec: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in spec.items() if name not in PER_TASK}, sort_keys=True)


def _metrics_of_tasks(records: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """task -> metrics, from the records that have them; recalls by direction, re-ranking and rank."""
    found: dict[str, set[str]] = {}
    for record in records:
        found.setdefault(record["spec"]["task"], set())
        for task, metrics in (record.get("quality") or {}).items():
            found.setdefault(task, set()).update(metrics)
    return {task: sorted(metrics, key=_reading_order) for task, metrics in sorted(found.items())}


def _reading_order(metric: str) -> tuple[Any, ...]:
    match = RANK.match(metric)
    if match is None:
        return (metric, False, False, 0)
    return ("", bool(match["rerank"]), match["way"] == "i2t", int(match["rank"]))


def _row(records: Sequence[Mapping[str, Any]], known: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    spec = records[0]["spec"]
    row: dict[str, Any] = {name: spec.get(name) for name in ("method", "ratio", "schedule", "match", *CONTEXT)}
    row |= {
        "config": json.dumps(spec.get("config") or {}, sort_keys=True),
        "keys": tuple(record["key"] for record in records),
    }
    row["limit"] = None if row["limit"] is None else float(row["limit"])
    row["status"] = next((record["status"] for record in records if record["status"] != "done"), "done")
    row |= _costs(next((record["cost"] for record in records if record.get("cost")), {}))
    by_task = {record["spec"]["task"]: record for record in records}
    for task, record in by_task.items():
        diagnostics = record.get("diagnostics") or {}
        row[f"mentioned_kept_{task}"] = (diagnostics.get("mentioned_kept_per_block") or [None])[-1]
        row[f"mentioned_merged_{task}"] = (diagnostics.get("mentioned_merged_per_block") or [None])[-1]
        row["fallback"] = diagnostics.get("fallback") or row.get("fallback")
    for task, metrics in known.items():
        task_record = by_task.get(task)
        for metric in metrics:
            row |= _metric(metric, task, task_record)
    return row


def _costs(cost: Mapping[str, Any]) -> dict[str, Any]:
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


def _over(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _metric(metric: str, task: str, record: Mapping[str, Any] | None) -> dict[str, Any]:
    error = "not run" if record is None else ERRORS.get(record["status"], "")
    found = ((record or {}).get("quality") or {}).get(task, {}).get(metric, {})
    low, high = found.get("ci95") or (None, None)
    delta_low, delta_high = found.get("delta_ci95") or (None, None)
    fields = {
        "": found.get("value"),
        "__low": low,
        "__high": high,
        "__n": found.get("n"),
        "__delta": found.get("delta_to_dense"),
        "__delta_low": delta_low,
        "__delta_high": delta_high,
    }
    numbers = {f"{metric}{suffix}": float("nan") if value is None else float(value) for suffix, value in fields.items()}
    return {**numbers, f"{metric}__error": error or ("" if found else "no value")}


def _nominal(frame: pd.DataFrame) -> pd.Series:
    """The ratio asked for, or the realised one where the method's own setting was (1 if neither is known)."""
    return frame["ratio"].astype(float).fillna(frame["token_ratio"].astype(float)).fillna(1.0)


def _variants(frame: pd.DataFrame) -> list[str]:
    """What tells rows of one context, method and ratio apart: the differing settings; "" for a row alone."""
    texts = pd.Series("", index=frame.index)
    for _, group in frame.groupby([*CONTEXT, "method", "ratio"], dropna=False, sort=False):
        if len(group) == 1:
            continue
        settings = [_settings(row) for _, row in group.iterrows()]
        names = sorted({name for setting in settings for name in setting})
        differing = [name for name in names if len({json.dumps(setting.get(name)) for setting in settings}) > 1]
        for index, setting in zip(group.index, settings, strict=True):
            words = [
                setting[name] if name == "schedule" else f"{name}={_short(setting.get(name))}" for name in differing
            ]
            texts[index] = " ".join(words)
    return list(texts)


def _settings(row: pd.Series) -> dict[str, Any]:
    config = {name: value for name, value in json.loads(row["config"]).items() if name not in PER_RATIO}
    return {"schedule": str(row["schedule"]), "match": row["match"], **config}


def _short(value: Any) -> str:
    return (
        ",".join(_short(entry) for entry in value)
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _failure(record: Mapping[str, Any]) -> str:
    spec = record["spec"]
    ratio = "paper" if spec["ratio"] is None else f"{spec['ratio']:g}"
    status = record["status"].replace("_", " ")
    return f"{spec['method']} {ratio} {spec['task']}: {status}: {record.get('error')}"
