"""Which records are one setting: the same method at the same budget, on all its tasks and with all its seeds.

Tasks are joined although each has weights, a training recipe and an image size of its own: what tasks differ in
tells no settings apart. What one task was measured with more than once (300 and 1,000 steps of fine-tuning, 224 and
384 pixels) does, for all tasks. The same goes for the parts of a method's config that follow from its budget and the
image size, or, of an adaptive method, from the images of the task.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.report.versions import is_installed

DENSE = "dense"
PLACE = ("device", "hardware", "threads", "dtype")
SHARED = ("model", "base", "protocol", "data", "split", "limit", "quick", *PLACE)
# What rows that may be compared have in common.
CONTEXT = (*SHARED, "training", "image_size")
PER_TASK = {"task", "task_options", "data_digest", "batch_size", "code", "weights", "training", "image_size"}
PER_BUDGET = {"schedule", "attention_tokens", "mlp_tokens"}
# What a stage of training says of the method and the draw, not of the training that methods are compared under.
OF_THE_METHOD = {"method", "config", "settings", "seed"}
Record = Mapping[str, Any]
Seed = tuple[Any, ...]


@dataclass
class Setting:
    """One row: context has the fields of CONTEXT; records are by task, then by seed, both in order and all there before
    either is asked for."""

    context: dict[str, Any]
    records: dict[str, dict[Seed, Record]] = field(default_factory=dict)

    @cached_property
    def seeds(self) -> list[Seed]:
        """All seeds of its records, in order."""
        return sorted({seed for found in self.records.values() for seed in found}, key=_numbers)

    @cached_property
    def by_seed(self) -> list[Record]:
        """All records, those of the first seed first."""
        return [found[seed] for seed in self.seeds for found in self.records.values() if seed in found]


def settings_of(records: Iterable[Record]) -> tuple[list[Setting], int]:
    """The settings in an order that the records' order has no part in, and how many records newer ones hide.

    Where a setting, task and seed were measured more than once, a record of the method's code as it is now counts
    before one of other code, and of several the latest.
    """
    ordered = sorted(records, key=lambda record: (record.get("run") or {}).get("started") or "")
    on_images = frozenset(
        record["spec"]["method"] for record in ordered if (record.get("cost") or {}).get("spread") is not None
    )
    described = [_Described.of(record["spec"], on_images) for record in ordered]
    chosen = _differing(described)
    found: dict[str, Setting] = {}
    latest: dict[tuple[str, str, Seed], tuple[dict[str, Any], Record]] = {}
    for record, one in zip(ordered, described, strict=True):
        differing = {name: one.facts.get(name) for name in chosen.get(one.shared_text, ())}
        setting = one.setting + (_text(differing) if differing else "")
        place = setting, one.task, one.seed
        if place in latest and is_installed(latest[place][1]) and not is_installed(record):
            continue
        latest[place] = ({**one.shared, **_context(differing)}, record)
    for (key, task, seed), (context, record) in sorted(latest.items(), key=lambda item: _place(item[0])):
        found.setdefault(key, Setting(context)).records.setdefault(task, {})[seed] = record
    _state_sizes(found.values())
    return list(found.values()), len(ordered) - len(latest)


def seed_of(spec: Mapping[str, Any]) -> Seed:
    """What names a draw: the cell's seed, and the method's own where it was set to another."""
    seed, own = spec.get("seed"), (spec.get("config") or {}).get("seed")
    return (seed,) if own is None or own == seed else (seed, own)


def length_of_training(spec: Mapping[str, Any]) -> dict[str, str | None]:
    """Stage -> '300 steps' of a cell's training, or the budget they follow from for each method (None: its recipe's
    epochs); {} where there is none.
    """
    lengths = {}
    for stage in spec.get("training") or ():
        steps = stage.get("steps")
        named = None if steps is None else f"{steps} steps"
        lengths[str(stage["stage"])] = (stage.get("budget") or {}).get("steps", named)
    return lengths


def _shared(spec: Mapping[str, Any]) -> dict[str, Any]:
    stated = {"base": spec.get("base") or spec["weights"], "quick": bool(spec.get("quick"))}
    return {name: spec.get(name) for name in SHARED} | stated


def _of_budget(spec: Mapping[str, Any], on_images: frozenset[str]) -> set[str]:
    """The fields of a cell's config that follow from its budget: of an adaptive method, whose budget is found on a
    task's images in that task's host, any number.
    """
    if spec.get("ratio") is None or spec["method"] not in on_images:
        return PER_BUDGET
    config = spec.get("config") or {}
    return PER_BUDGET | {name for name, value in config.items() if type(value) in {int, float} and name != "seed"}


def _setting(spec: Mapping[str, Any], on_images: frozenset[str]) -> dict[str, Any]:
    """What all tasks and seeds of a setting share; a field without a value is as good as none."""
    aside = _of_budget(spec, on_images) | {"seed"}
    config = {name: value for name, value in (spec.get("config") or {}).items() if name not in aside}
    fields = {name: value for name, value in spec.items() if name not in PER_TASK | {"seed"} and value is not None}
    return {**fields, "config": config, "base": spec.get("base") or spec["weights"]}


def _facts(spec: Mapping[str, Any], on_images: frozenset[str]) -> dict[str, Any]:
    """What may differ from task to task, by dotted name."""
    budget = _of_budget(spec, on_images)
    config = {name: value for name, value in (spec.get("config") or {}).items() if name in budget}
    training: dict[str, Any] = {}
    for stage in spec.get("training") or ():
        # What follows from a budget for each method tells no settings apart: the budget does.
        fields = {name: value for name, value in stage.items() if name != "budget"}
        training |= _flat(f"training.{stage['stage']}", fields)
        training |= {f"training.{stage['stage']}.{name}": said for name, said in (stage.get("budget") or {}).items()}
    return {"image_size": spec.get("image_size"), **_flat("config", config), **training}


def _flat(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {path: leaf for key, inner in value.items() for path, leaf in _flat(f"{name}.{key}", inner).items()}


@dataclass(frozen=True)
class _Described:
    """A cell's spec in parts: what its board shares, also as text, what its setting does, as text, and what may differ
    from task to task.
    """

    task: str
    seed: Seed
    shared: dict[str, Any]
    shared_text: str
    setting: str
    facts: dict[str, Any]

    @classmethod
    def of(cls, spec: Mapping[str, Any], on_images: frozenset[str]) -> _Described:
        shared, setting = _shared(spec), _text(_setting(spec, on_images))
        return cls(spec["task"], seed_of(spec), shared, _text(shared), setting, _facts(spec, on_images))


def _differing(cells: Iterable[_Described]) -> dict[str, list[str]]:
    """Shared fields -> the facts that differ among records of one setting, task and seed."""
    first: dict[tuple[str, str, Seed], dict[str, Any]] = {}
    chosen: dict[str, set[str]] = {}
    for one in cells:
        other = first.setdefault((one.setting, one.task, one.seed), one.facts)
        if one.facts is other or one.facts == other:
            continue
        differing = {name for name in one.facts.keys() | other.keys() if one.facts.get(name) != other.get(name)}
        # Content tells apart what nothing else does; beside another name it would split the seeds' own scenes, too.
        named = {name for name in differing if ".digests." not in name}
        chosen.setdefault(one.shared_text, set()).update(named or differing)
    return {shared: sorted(names) for shared, names in chosen.items()}


def _context(differing: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of CONTEXT by which boards differ: `training` as JSON, and `image_size`."""
    of_training = {
        name.removeprefix("training."): value
        for name, value in differing.items()
        if name.startswith("training.") and OF_THE_METHOD.isdisjoint(name.split("."))
    }
    return {"training": _text(of_training) if of_training else "", "image_size": differing.get("image_size")}


def _state_sizes(settings: Iterable[Setting]) -> None:
    """Write all image sizes of a context into it: '64', or '384 480' where tasks differ."""
    sizes: dict[str, set[int]] = {}
    groups = [(_text(setting.context), setting) for setting in settings]
    for key, setting in groups:
        sizes.setdefault(key, set()).update(record["spec"]["image_size"] for record in setting.by_seed)
    for key, setting in groups:
        setting.context["image_size"] = " ".join(map(str, sorted(sizes[key])))


_text = json.JSONEncoder(sort_keys=True).encode


def _numbers(seed: Seed) -> tuple[Any, ...]:
    return tuple((number is not None, number or 0) for number in seed)


def _place(name: tuple[str, str, Seed]) -> tuple[Any, ...]:
    return (name[0], name[1], _numbers(name[2]))
