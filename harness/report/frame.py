"""From records to numbers: a long frame with a row per setting, task and quantity, and what tables ask of it.

A setting is a method at a budget with everything it was measured under; its tasks and seeds belong to it. Values of
several seeds are means: their bounds speak of the sampling of test items, `sd` of training and draws. docs/records.md
explains every column.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from harness.kit.errors import HarnessError
from harness.metrics.quantity import Quantity
from harness.report.chance import mark_chance
from harness.report.families import adjust
from harness.report.quantities import OF_THROUGHPUT, of_costs, of_metrics, quantity_of
from harness.report.row import Value, absent_metrics, setting_of, values_of
from harness.report.settings import CONTEXT, DENSE, PER_BUDGET, Setting, settings_of
from harness.report.versions import mixed_versions

NUMBERS = [name for name, kind in Value.__annotations__.items() if kind == "float"]
EMPTY = frozenset({"not run", "no value"})
SEVERAL = ("keys", "seeds")
BASE_LETTERS = 16  # of a digest, or the end of a folder's path


@dataclass(frozen=True)
class Frame:
    """Settings in the order of tables, and the values that stand for them.

    settings: a row each, `setting` its number. values: a row per setting, task and quantity. failures: a line for each
    failed cell. absent: metric -> why it could not be measured. superseded: how many records others hide. mixed: a line
    for each method whose rows come from several versions of its code.
    """

    settings: pd.DataFrame
    values: pd.DataFrame
    failures: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    superseded: int = 0
    mixed: list[str] = field(default_factory=list)

    def long(self) -> pd.DataFrame:
        """A row per setting, task and quantity, with everything that is known of it."""
        known = self.settings.assign(
            **{name: [" ".join(map(str, values)) for values in self.settings[name]] for name in SEVERAL}
        ).drop(columns=["nominal", "image_size"])
        rows = known.merge(self.values, on="setting", how="left", validate="many_to_many")
        named = [self.quantity(name, task) for task, name in zip(rows["task"], rows["quantity"], strict=True)]
        for name in ("title", "scale", "better"):
            rows[name] = [getattr(one, name) for one in named]
        return rows

    @cached_property
    def metrics(self) -> dict[str, str]:
        """Metric -> its task, in the order of reading."""
        quality = self.values.loc[self.values["kind"] == "quality", ["task", "quantity"]].drop_duplicates()
        return {metric: task for task, metric in quality.itertuples(index=False)}

    def headline(self) -> list[str]:
        """The metrics shown unless others are asked for; those that no setting was measured on are left out."""
        whole = [name for name in self.metrics if self.quantity(name).headline]
        return [name for name in whole if not EMPTY.issuperset(self.column(name)["error"])]

    def quantity(self, name: str, task: str | None = None) -> Quantity:
        """What is declared of a metric, a cost or a rate."""
        return of_costs().get(name) or OF_THROUGHPUT.get(name) or quantity_of(task or self.metrics[name], name)

    def column(self, name: str, tasks: Sequence[str] | None = None) -> pd.DataFrame:
        """The values of a quantity, a row per setting; of several tasks (None: any) those of the first that has it."""
        rows = self._by_quantity.get(name)
        if rows is not None and tasks is not None:
            rows = rows[rows["task"].isin(list(tasks))]
        if rows is None or rows.empty:
            found = self.values.iloc[:0].set_index("setting")
        else:
            found = rows.drop_duplicates("setting").set_index("setting")
        found = found.reindex(self.settings["setting"]).set_axis(self.settings.index)
        return found.assign(
            error=found["error"].fillna("not run"),
            unguided=found["unguided"].eq(True),
            at_chance=found["at_chance"].eq(True),
        )

    @cached_property
    def _by_quantity(self) -> dict[str, pd.DataFrame]:
        return {str(name): rows for name, rows in self.values.groupby("quantity", sort=False)}

    @property
    def dense(self) -> pd.Series:
        """Which settings are dense."""
        return self.settings["method"] == DENSE

    @cached_property
    def sizes(self) -> dict[int, list[str]]:
        """Image size of the tower -> the tasks with such a tower, where there are several; else {}."""
        if len(str(self.settings["image_size"].iloc[0]).split()) < 2:
            return {}
        costs = self.values[self.values["kind"] == "cost"].dropna(subset="image_size")
        pairs = costs[["image_size", "task"]].drop_duplicates().sort_values(["image_size", "task"])
        found: dict[int, list[str]] = {}
        for size, task in pairs.itertuples(index=False):
            found.setdefault(int(size), []).append(task)
        return found if len(found) > 1 else {}


def to_frame(records: Iterable[Mapping[str, Any]]) -> Frame:
    """The frame of records: dense first, then by descending ratio and method. HarnessError when there are none."""
    found, superseded = settings_of(records)
    if not found:
        raise HarnessError("no records: `python -m harness run` measures cells, --runs names their folder")
    known = _metrics_of_tasks(found)
    settings = pd.DataFrame([setting_of(number, setting) for number, setting in enumerate(found)])
    settings["variant"] = _variants(settings)
    order = pd.DataFrame({"dense": settings["method"] != DENSE, "ratio": -settings["nominal"]})
    order = pd.concat([settings[list(CONTEXT)].astype(str), order, settings[["method", "variant"]]], axis=1)
    settings = settings.loc[order.sort_values(list(order.columns), kind="stable").index].reset_index(drop=True)
    values = [value for number, setting in enumerate(found) for value in values_of(number, setting, known)]
    rows = pd.DataFrame(values, columns=list(Value._fields))
    place = {pair: number for number, pair in enumerate(of_metrics())}
    rows["place"] = [place.get(pair, len(place)) for pair in zip(rows["task"], rows["quantity"], strict=True)]
    rows = rows.sort_values(["task", "place"], kind="stable").drop(columns="place").reset_index(drop=True)
    mark_chance(rows, settings)
    adjust(rows, settings)
    every = [record for setting in found for record in setting.by_seed]
    return Frame(
        settings,
        rows,
        [line for setting in found for line in _failures(setting)],
        {name: why for record in every for name, why in absent_metrics(record).items()},
        superseded,
        mixed_versions(every),
    )


def boards(frame: Frame) -> list[tuple[str, Frame]]:
    """The frame in parts whose settings may be compared (same model, data, machine …), each with a title.

    The title names the machine, of which costs and times are; weights and device where nothing else tells two apart.
    """
    parts, apart = [], []
    for _, settings in frame.settings.groupby(list(CONTEXT), sort=False, dropna=False):
        first = settings.iloc[0]
        values = frame.values[frame.values["setting"].isin(settings["setting"])]
        split = "" if pd.isna(first["split"]) else f", split {first['split']}"
        limit = "" if pd.isna(first["limit"]) else f", limit {int(first['limit'])}"
        limit += _quick(values) if first["quick"] else ""
        sizes = ", ".join(str(first["image_size"]).split())
        set_and_size = (f"{first['data']}{split}{limit}", f"{sizes} px")
        what = (first["model"], _protocol(settings), *set_and_size, first["dtype"], *_machine(first))
        parts.append((" · ".join(map(str, what)), replace(frame, settings=settings, values=values)))
        apart.append(f"weights {str(first['base'])[-BASE_LETTERS:]}, {first['device']}")
    titles = [title for title, _ in parts]
    return [
        (f"{title} · {more}" if titles.count(title) > 1 else title, board)
        for (title, board), more in zip(parts, apart, strict=True)
    ]


def _quick(values: pd.DataFrame) -> str:
    """', quick, 100 to 483 samples': what a quick measurement is of, so that no one takes it for the whole."""
    quality = values[values["kind"] == "quality"]
    shown = [quantity_of(task, name).headline for task, name in zip(quality["task"], quality["quantity"], strict=True)]
    counts = quality.loc[shown, "n"].dropna().astype(int)
    if counts.empty:
        return ", quick"
    least, most = counts.min(), counts.max()
    return f", quick, {least if least == most else f'{least} to {most}'} samples"


def _machine(settings: pd.Series) -> list[str]:
    """What costs and times of a board are of; nothing where its records do not say it."""
    if pd.isna(settings["hardware"]) or pd.isna(settings["threads"]):
        return []
    threads = int(settings["threads"])
    return [f"{settings['hardware']}, {threads} thread{'s' * (threads > 1)}"]


def study_frame(records: Iterable[Mapping[str, Any]], labels: Sequence[Mapping[str, Any]]) -> Frame:
    """The frame of a study's records, its settings with a column per field of its labels: dense first, then in the
    labels' order.

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
    parts = [frame.settings[frame.dense].assign(label="")]
    for label in labels:
        rows = frame.settings[[not set(keys).isdisjoint(label["keys"]) for keys in frame.settings["keys"]]]
        rows = rows[rows["method"] != DENSE]
        extra: dict[str, Any] = {name: value for name, value in label.items() if name not in {"keys", "method"}}
        if extra.get("label") is None:
            extra["label"] = ["paper" if pd.isna(ratio) else f"{ratio:g}" for ratio in rows["ratio"].astype(float)]
        parts.append(rows.assign(**extra))
    return replace(frame, settings=pd.concat([part for part in parts if len(part)], ignore_index=True))


def _protocol(settings: pd.DataFrame) -> str:
    """'finetune, 300 steps': a board's protocol, the steps that all its tasks were trained for, and what else
    differs from other boards."""
    protocol = str(settings["protocol"].iloc[0])
    stages: dict[str, set[str]] = {}
    for found in map(json.loads, settings["training_steps"].unique()):
        for stage, steps in found.items():
            stages.setdefault(stage, set()).update(steps)
    if not stages:
        return protocol
    steps = {stage: next(iter(found)) for stage, found in stages.items() if len(found) == 1}
    if list(stages) == [protocol]:
        words = [protocol, *steps.values()]
    else:
        words = [" + ".join(f"{stage} {steps[stage]}" if stage in steps else stage for stage in stages)]
    return ", ".join([*words, *_training_words(settings["training"].iloc[0], len(stages) > 1)])


def _training_words(training: str, several: bool) -> list[str]:
    """'batch_size 32' of each fact of training that another board has otherwise; its stage before it among several."""
    words = []
    for path, value in json.loads(training or "{}").items():
        stage, _, name = path.partition(".")
        if value is not None and name not in {"steps", "recipe.image_size"}:
            named = name.removeprefix("recipe.").removeprefix("digests.")
            words.append(f"{stage} {named} {_short(value)}" if several else f"{named} {_short(value)}")
    return words


def _metrics_of_tasks(settings: Iterable[Setting]) -> dict[str, list[str]]:
    """task -> metrics, from the records that have them."""
    found: dict[str, set[str]] = {}
    for record in (record for setting in settings for record in setting.by_seed):
        found.setdefault(record["spec"]["task"], set()).update(absent_metrics(record))
        for task, metrics in (record.get("quality") or {}).items():
            found.setdefault(task, set()).update(metrics)
    return {task: sorted(metrics) for task, metrics in sorted(found.items())}


def _variants(settings: pd.DataFrame) -> list[str]:
    """What tells rows of one context, method and ratio apart: the differing settings; "" for a row alone."""
    texts = pd.Series("", index=settings.index)
    for index in settings.groupby([*CONTEXT, "method", "ratio"], dropna=False, sort=False).indices.values():
        if len(index) == 1:
            continue
        facts = [_facts(row) for _, row in settings.iloc[index].iterrows()]
        names = sorted({name for one in facts for name in one})
        differing = [name for name in names if len({json.dumps(one.get(name)) for one in facts}) > 1]
        for place, one in zip(index, facts, strict=True):
            words = [one[name] if name == "schedule" else f"{name}={_short(one.get(name))}" for name in differing]
            texts.iloc[place] = " ".join(words)
    return list(texts)


def _facts(row: pd.Series) -> dict[str, Any]:
    config = {name: value for name, value in json.loads(row["config"]).items() if name not in PER_BUDGET | {"seed"}}
    return {"schedule": str(row["schedule"]), "match": row["match"], **config}


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_short(entry) for entry in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _failures(setting: Setting) -> list[str]:
    lines = []
    for record in setting.by_seed:
        spec = record["spec"]
        if record["status"] == "done":
            continue
        ratio = "paper" if spec["ratio"] is None else f"{spec['ratio']:g}"
        seed = f", seed {spec['seed']}" if len(setting.seeds) > 1 else ""
        status = record["status"].replace("_", " ")
        lines.append(f"{spec['method']} {ratio} {spec['task']}{seed}: {status}: {record.get('error')}")
    return lines
