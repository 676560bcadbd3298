"""From records to one tidy frame: a row per measured setting, its tasks' metrics and its costs as columns.

A metric `m` has the columns `m` (fraction), `m__low`, `m__high`, `m__n`, `m__delta`, `m__delta_low`,
`m__delta_high` and `m__error` ("" or why there is no value). Of several seeds all these are means over the seeds that
have a value (`m__seeds` of them): the bounds speak of the sampling of test items, `m__sd` and `m__delta_sd` (standard
deviations, n - 1; NaN of one seed) of training and draws. `m__blind` stands in dense's row: the score where images are
blank. MACs are in G multiply-adds per image, memory in MiB per image, throughput in `throughput_unit_<task>` per
second, end to end and of the model alone (`model_throughput_<task>`), with dense measured in turn as 1
(`throughput_ratio_<task>`; empty where passes are long); these are of the first seed. Where the tasks'
towers see images of different sizes (`cost_size_<task>`), there is each cost per task too (`forward_gmacs_<task>`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.kit.errors import HarnessError
from harness.report.metric_names import reading_order
from harness.report.row import absent_metrics, row_of
from harness.report.settings import CONTEXT, DENSE, PER_BUDGET, Setting, settings_of


def to_frame(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per setting, tasks and seeds joined; dense first, then by descending ratio and method.

    `frame.attrs`: "superseded", how many records newer ones of the same setting, task and seed hide; "failures", a
    line for each failed cell; "tasks", the task of each metric. Raises HarnessError when there are no records.
    """
    settings, superseded = settings_of(records)
    if not settings:
        raise HarnessError("no records: `python -m harness run` measures cells, --runs names their folder")
    known = _metrics_of_tasks(settings)
    frame = pd.DataFrame([row_of(setting, known) for setting in settings])
    frame["variant"] = _variants(frame)
    order = pd.DataFrame({"dense": frame["method"] != DENSE, "ratio": -_nominal(frame), "method": frame["method"]})
    order = pd.concat([frame[list(CONTEXT)].astype(str), order, frame["variant"]], axis=1)
    frame = frame.loc[order.sort_values(list(order.columns), kind="stable").index].reset_index(drop=True)
    frame.attrs["superseded"] = superseded
    frame.attrs["failures"] = [line for setting in settings for line in _failures(setting)]
    every = [record for setting in settings for record in setting.by_seed()]
    frame.attrs["absent"] = {name: why for record in every for name, why in absent_metrics(record).items()}
    frame.attrs["tasks"] = {metric: task for task, metrics in known.items() for metric in metrics}
    return frame


def boards(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The frame in parts whose rows may be compared (same model, data, protocol …), each with a title."""
    parts = []
    for _, part in frame.groupby(list(CONTEXT), sort=False, dropna=False):
        part.attrs = frame.attrs
        first = part.iloc[0]
        split = "" if pd.isna(first["split"]) else f", split {first['split']}"
        limit = "" if pd.isna(first["limit"]) else f", limit {int(first['limit'])}"
        sizes = ", ".join(str(first["image_size"]).split())
        what = (first["model"], _protocol(part), f"{first['data']}{split}{limit}", f"{sizes} px", first["dtype"])
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


def _protocol(part: pd.DataFrame) -> str:
    """'finetune, 300 steps': a board's protocol, the steps that all its tasks were trained for, and what else is told
    apart from other boards."""
    protocol = str(part["protocol"].iloc[0])
    stages: dict[str, set[int]] = {}
    for found in map(json.loads, part["training_steps"]):
        for stage, steps in found.items():
            stages.setdefault(stage, set()).update(steps)
    if not stages:
        return protocol
    steps = {stage: f"{next(iter(found))} steps" for stage, found in stages.items() if len(found) == 1}
    if list(stages) == [protocol]:
        words = [protocol, *steps.values()]
    else:
        words = [" + ".join(f"{stage} {steps[stage]}" if stage in steps else stage for stage in stages)]
    return ", ".join([*words, *_told(part["training"].iloc[0], len(stages) > 1)])


def _told(training: str, several: bool) -> list[str]:
    """'batch_size 32' of each fact of training that another board has otherwise; its stage before it among several."""
    words = []
    for path, value in json.loads(training or "{}").items():
        stage, _, name = path.partition(".")
        if value is not None and name not in {"steps", "recipe.image_size"}:
            named = name.removeprefix("recipe.").removeprefix("digests.")
            words.append(f"{stage} {named} {_short(value)}" if several else f"{named} {_short(value)}")
    return words


def _metrics_of_tasks(settings: Iterable[Setting]) -> dict[str, list[str]]:
    """task -> metrics, from the records that have them; recalls by direction, re-ranking and rank."""
    found: dict[str, set[str]] = {}
    for record in (record for setting in settings for record in setting.by_seed()):
        found.setdefault(record["spec"]["task"], set()).update(absent_metrics(record))
        for task, metrics in (record.get("quality") or {}).items():
            found.setdefault(task, set()).update(metrics)
    return {task: sorted(metrics, key=reading_order) for task, metrics in sorted(found.items())}


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
    config = {name: value for name, value in json.loads(row["config"]).items() if name not in PER_BUDGET | {"seed"}}
    return {"schedule": str(row["schedule"]), "match": row["match"], **config}


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_short(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _failures(setting: Setting) -> list[str]:
    lines = []
    for record in setting.by_seed():
        spec = record["spec"]
        if record["status"] == "done":
            continue
        ratio = "paper" if spec["ratio"] is None else f"{spec['ratio']:g}"
        seed = f", seed {spec['seed']}" if len(setting.seeds) > 1 else ""
        status = record["status"].replace("_", " ")
        lines.append(f"{spec['method']} {ratio} {spec['task']}{seed}: {status}: {record.get('error')}")
    return lines
