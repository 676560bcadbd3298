"""One setting's numbers: a row for each of its tasks' metrics over the seeds, costs, throughput and blank images."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from harness.cost import quantities as of_cost
from harness.evaluate import quantities as of_evaluation
from harness.report.chance import recall_by_chance
from harness.report.quantities import OF_THROUGHPUT, of_costs, quantity_of
from harness.report.settings import Record, Setting, length_of_training
from harness.train.quantities import trained_of

ERRORS = {"failed": "failed", "out_of_memory": "no memory"}
ABSENT = "absent"
NAN = float("nan")


class Value(NamedTuple):
    """A row of the long frame, whose columns docs/records.md explains."""

    setting: int
    task: str
    quantity: str
    kind: str
    unit: str
    value: float
    low: float = NAN
    high: float = NAN
    n: float = NAN
    seed_count: float = NAN
    sd: float = NAN
    delta: float = NAN
    delta_low: float = NAN
    delta_high: float = NAN
    delta_sd: float = NAN
    blind: float = NAN
    error: str = ""
    image_size: float = NAN
    unguided: bool = False
    p_dense: float = NAN
    p_dense_holm: float = NAN
    delta_random: float = NAN
    delta_random_low: float = NAN
    delta_random_high: float = NAN
    p_random: float = NAN
    p_random_holm: float = NAN
    chance: float = NAN
    at_chance: bool = False


def setting_of(number: int, setting: Setting) -> dict[str, Any]:
    """What all values of a setting share. What is not averaged is of the first seed."""
    records = setting.by_seed
    spec = records[0]["spec"]
    realised = next((record["cost"]["ratio"] for record in records if (record["cost"] or {}).get("ratio")), None)
    nominal = spec["ratio"] if spec["ratio"] is not None else realised if realised is not None else 1.0
    return {
        "setting": number,
        **{name: spec.get(name) for name in ("method", "ratio", "schedule", "match")},
        **setting.context,
        "limit": None if setting.context["limit"] is None else float(setting.context["limit"]),
        "seeds": tuple(":".join(map(str, seed)) for seed in setting.seeds),
        "config": json.dumps(spec.get("config") or {}, sort_keys=True),
        "keys": tuple(record["key"] for found in setting.records.values() for record in found.values()),
        "training_steps": _stages(records),
        "status": next((record["status"] for record in records if record["status"] != "done"), "done"),
        "fallback": next((said for record in records if (said := _diagnostics(record).get("fallback"))), None),
        "nominal": float(nominal),
    }


def values_of(number: int, setting: Setting, known: Mapping[str, Sequence[str]]) -> Iterator[Value]:
    """A setting's values; `known` has the metrics of each task."""
    for task, found in setting.records.items():
        records = list(found.values())
        size, unguided, pairs = float(records[0]["spec"].get("image_size") or NAN), _unguided(records), _pairs(records)
        absent = {metric for record in records for metric in absent_metrics(record)}
        for metric in known.get(task, ()):
            # A metric of images beside texts is of the pairs that were encoded, if any were.
            alone = unguided and not (quantity_of(task, metric).with_text and pairs)
            value = _metric(number, task, metric, records, absent=metric in absent)
            yield value._replace(image_size=size, unguided=alone)
        yield from _costs(number, task, records, unguided)


def absent_metrics(record: Record) -> Mapping[str, str]:
    """The metrics that a record's task has elsewhere and could not measure, and why: SPICE without its parser."""
    return _diagnostics(record).get("absent") or {}


def _metric(number: int, task: str, metric: str, records: Sequence[Record], *, absent: bool) -> Value:
    """A metric over the seeds that have a value of it; `absent`: some record says that it could not be measured."""
    found = [entry for record in records if (entry := (record.get("quality") or {}).get(task, {}).get(metric))]
    bounds = [entry.get("ci95") or (None, None) for entry in found]
    delta_bounds = [entry.get("delta_ci95") or (None, None) for entry in found]
    several = found[0].get("over_seeds") if found else None
    if several and several["seeds"] == len(found) > 1:
        bounds = [several["ci95"]]
        delta_bounds = [several["delta_ci95"]] if "delta_ci95" in several else delta_bounds
    values, deltas = ([entry.get(name) for entry in found] for name in ("value", "delta_to_dense"))
    random_bounds = [entry.get("delta_to_random_ci95") or (None, None) for entry in found]
    error = next((ERRORS[record["status"]] for record in records if record["status"] in ERRORS), "no value")
    if absent:
        error = ABSENT
    return Value(
        number,
        task,
        metric,
        "quality",
        quantity_of(task, metric).unit,
        value=_mean(values),
        low=_mean([low for low, _ in bounds]),
        high=_mean([high for _, high in bounds]),
        n=_mean([entry.get("n") for entry in found]),
        seed_count=float(len(found)),
        sd=_sd(values),
        delta=_mean(deltas),
        delta_low=_mean([low for low, _ in delta_bounds]),
        delta_high=_mean([high for _, high in delta_bounds]),
        delta_sd=_sd(deltas),
        blind=_mean([(record.get("blind") or {}).get(metric) for record in records]),
        p_dense=_largest([entry.get("p_to_dense") for entry in found]),
        delta_random=_mean([entry.get("delta_to_random") for entry in found]),
        delta_random_low=_mean([low for low, _ in random_bounds]),
        delta_random_high=_mean([high for _, high in random_bounds]),
        p_random=_largest([entry.get("p_to_random") for entry in found]),
        chance=recall_by_chance(metric, records),
        error="" if found else error,
    )


def _costs(number: int, task: str, records: Sequence[Record], unguided: bool) -> Iterator[Value]:
    """Costs and throughput, from the first seed that has them; no times of records that count on any machine."""
    cost: Mapping[str, Any] = next((record["cost"] for record in records if record.get("cost")), {})
    speed = next((record["throughput"] for record in records if record.get("throughput")), None)
    mentioned = [of_cost.mentioned_of(_diagnostics(record)) for record in records]
    fates = {name: next((one[name] for one in mentioned if one[name] is not None), None) for name in mentioned[0]}
    size = float(cost.get("image_size") or NAN)
    declared, spreads = of_costs(), of_cost.spreads_of(cost) | (of_evaluation.spreads_of(speed) if speed else {})

    def row(name: str, kind: str, unit: str, value: float) -> Value:
        low, high = spreads.get(name, (NAN, NAN))
        return Value(number, task, name, kind, unit, float(value), low, high, image_size=size, unguided=unguided)

    training = next((record["trained"] for record in records if record.get("trained")), ())
    trained = trained_of(training)
    if any(record["spec"].get("hardware", "") is None for record in records):
        trained.pop("trained_minutes", None)  # of one machine or another, each to read in its record
    for name, value in (of_cost.costs_of(cost) | trained | fates).items():
        if value is not None:
            yield row(name, "cost", declared[name].unit, value)
    for name, value in (of_evaluation.throughput_of(speed) if speed else {}).items():
        if value is not None:
            unit = OF_THROUGHPUT[name].unit.replace("1/s", f"{speed['unit']}/s" if speed else "1/s")
            yield row(name, "throughput", unit, value)


def _unguided(records: Sequence[Record]) -> bool:
    """Whether a method that texts guide saw images without one too, with all their tokens."""
    made = ((record.get("cost") or {}).get("encodings") or {} for record in records)
    return any(map(of_evaluation.images_kept_all, records)) and any(one.get("images") for one in made)


def _pairs(records: Sequence[Record]) -> bool:
    """Whether images were encoded anew for a text."""
    return any(((record.get("cost") or {}).get("encodings") or {}).get("pairs") for record in records)


def _mean(values: Sequence[float | None]) -> float:
    if len(values) == 1:  # most settings have one seed
        return NAN if values[0] is None else float(values[0])
    there = [float(value) for value in values if value is not None]
    return fmean(there) if there else NAN


def _largest(p_values: Sequence[float | None]) -> float:
    """Of several seeds: what is not chance has to show in each."""
    there = [value for value in p_values if value is not None]
    return float(max(there)) if there and len(there) == len(p_values) else NAN


def _sd(values: Sequence[float | None]) -> float:
    if len(values) == 1:
        return NAN
    there = [float(value) for value in values if value is not None]
    return stdev(there) if len(there) > 1 else NAN


def _diagnostics(record: Record) -> Mapping[str, Any]:
    return record.get("diagnostics") or {}


def _stages(records: Sequence[Record]) -> str:
    """JSON of stage -> for how long the row's tasks were trained in it."""
    found: dict[str, set[str]] = {}
    for record in records:
        for stage, length in length_of_training(record["spec"]).items():
            found.setdefault(stage, set()).update(() if length is None else (length,))
    return json.dumps({stage: sorted(lengths) for stage, lengths in found.items()})
