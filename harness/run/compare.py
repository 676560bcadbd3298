"""Records beside dense: differences on the same samples, computed when records are read and kept beside them.

A record knows itself alone. What it differs by from dense belongs to the pair, so it is kept by both records' digests:
a record that is measured again is another pair, and what was kept is never stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from harness.kit.errors import HarnessError, warn_on_stderr
from harness.kit.files import replace_all
from harness.run.store import Record, Store

Deltas = dict[str, dict[str, dict[str, Any]]]
NAME = "comparisons.jsonl"
# What records that are compared have in common, beside their training.
SHARED = (
    *("model", "base", "protocol", "task", "task_options", "data", "data_digest", "split", "limit", "quick"),
    *("device", "hardware", "threads", "dtype", "image_size"),
)
# Of a stage of training: the method, the draw, and what content the draw gave.
OWN = {"method", "config", "settings", "seed", "digests"}
DRAWN = {"seed", "digests"}


def with_deltas(records: Sequence[Record], store: Store, warn: Callable[[str], None] = warn_on_stderr) -> list[Record]:
    """The records of a store, each metric with `delta_to_dense` and `delta_ci95`; both None where there is no dense.

    Metrics of a setting with several seeds have `over_seeds` besides: the intervals of the mean over seeds.

    Dense is the latest done record of the same host, data and task, after training that of the same seed. Where the
    samples of two records differ, `warn` gets the line that says so.
    """
    dense = _dense_of(records)
    kept, found = _read(store), dict[str, Deltas]()

    def once(name: str, compute: Callable[[], Deltas]) -> Deltas:
        """What is kept under a name, or computed now; nothing, which may be mended, is not kept."""
        if name not in kept and (deltas := compute()):
            found[name] = kept[name] = deltas
        return kept.get(name, {})

    pairs = [(record, dense.get(_board(record["spec"])) if record["status"] == "done" else None) for record in records]
    several = _of_several_seeds(pairs, store, once, warn)
    compared = []
    for record, beside in pairs:
        deltas: Deltas = {}
        if beside is not None and record["spec"]["method"] != "dense":
            name = f"{record['digest']} {beside['digest']}"
            deltas = once(name, partial(_computed, record, beside, store, warn))
        quality = _joined(record["quality"], deltas)
        for task, metrics in several.get(record["digest"], {}).items():
            for metric, entry in metrics.items():
                quality[task][metric] = {**quality[task][metric], "over_seeds": entry}
        compared.append({**record, "quality": quality})
    if found:
        _write(store, kept)
    return compared


def _of_several_seeds(
    pairs: Sequence[tuple[Record, Record | None]],
    store: Store,
    once: Callable[[str, Callable[[], Deltas]], Deltas],
    warn: Callable[[str], None],
) -> dict[str, Deltas]:
    """By the digest of a record whose setting has several seeds: the intervals over them, of value and difference.

    Of a seed that was measured more than once, the latest counts.
    """
    groups: dict[str, dict[str, tuple[Record, Record | None]]] = {}
    for record, beside in sorted(pairs, key=lambda pair: _started(pair[0])):
        if record["status"] == "done":
            draws = json.dumps([record["spec"]["seed"], record["spec"]["config"].get("seed")])
            groups.setdefault(_setting(record["spec"]), {})[draws] = record, beside
    found: dict[str, Deltas] = {}
    for group in (list(by_seed.values()) for by_seed in groups.values() if len(by_seed) > 1):
        is_dense = group[0][0]["spec"]["method"] == "dense"
        besides = [] if is_dense else [beside for _, beside in group if beside is not None]
        used = [*(record for record, _ in group), *besides]
        name = hashlib.sha256(" ".join(one["digest"] for one in used).encode()).hexdigest()
        several = once(f"seeds {name}", partial(_seeds, [one for one, _ in group], besides, store, warn))
        found |= {record["digest"]: several for record, _ in group}
    return found


def _seeds(records: Sequence[Record], besides: Sequence[Record], store: Store, warn: Callable[[str], None]) -> Deltas:
    from harness.metrics.seeds import over_seeds

    try:
        read = {record["digest"]: store.samples(record) for record in (*records, *besides)}
        dense = [read[one["digest"]] for one in besides] if len(besides) == len(records) else None
        found = over_seeds([read[one["digest"]] for one in records], dense)
    except HarnessError as error:
        warn(f"the {len(records)} seeds of {records[0]['samples']} are not compared: {error}")
        return {}
    return {
        task: {metric: {**entry, "seeds": len(records)} for metric, entry in metrics.items()}
        for task, metrics in found.items()
    }


def _setting(spec: Mapping[str, Any]) -> str:
    """What records of one setting share, whatever their seed."""
    config = {name: value for name, value in spec["config"].items() if name != "seed"}
    stages = [{name: stage[name] for name in stage if name not in DRAWN} for stage in spec["training"]]
    own = [spec.get(name) for name in ("method", "ratio", "schedule", "match", "weights")]
    return json.dumps([config, stages, own, *(spec.get(name) for name in SHARED)], sort_keys=True)


def _started(record: Record) -> str:
    return (record.get("run") or {}).get("started") or ""


def _dense_of(records: Iterable[Record]) -> dict[str, Record]:
    """The dense record of each board: the latest, if it is done."""
    ordered = sorted(records, key=_started)
    latest = {_board(record["spec"]): record for record in ordered if record["spec"]["method"] == "dense"}
    return {board: record for board, record in latest.items() if record["status"] == "done"}


def _board(spec: Mapping[str, Any]) -> str:
    """What a record shares with the dense record that it is compared with.

    Without training dense has one record for all seeds: it draws nothing.
    """
    stages = [{name: value for name, value in stage.items() if name not in OWN} for stage in spec["training"]]
    seed = spec["seed"] if stages else None
    return json.dumps([stages, seed, *(spec.get(name) for name in SHARED)], sort_keys=True)


def _computed(record: Record, dense: Record, store: Store, warn: Callable[[str], None]) -> Deltas:
    from harness.metrics.stats import deltas

    try:
        return deltas(store.samples(record), store.samples(dense))
    except HarnessError as error:
        warn(f"{record['samples']} is not compared with {dense['samples']}: {error}")
        return {}


def _joined(quality: Mapping[str, Any], deltas: Deltas) -> dict[str, dict[str, Any]]:
    nothing = {"delta_to_dense": None, "delta_ci95": None}
    return {
        task: {metric: entry | deltas.get(task, {}).get(metric, nothing) for metric, entry in metrics.items()}
        for task, metrics in quality.items()
    }


def _read(store: Store) -> dict[str, Deltas]:
    """What was computed before, by pair of digests; nothing where the file is missing, cut off or edited.

    A line for each pair, after one with the digest of all others.
    """
    try:
        first, _, rest = (store.folder / NAME).read_bytes().partition(b"\n")
        if first.decode() != hashlib.sha256(rest).hexdigest():
            return {}
        return dict(json.loads(b"[" + rest.strip().replace(b"\n", b",") + b"]"))
    except (OSError, ValueError, RecursionError):
        return {}


def _write(store: Store, pairs: dict[str, Deltas]) -> None:
    rest = "".join(json.dumps(entry) + "\n" for entry in sorted(pairs.items())).encode()
    try:
        replace_all({store.folder / NAME: hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest})
    except OSError:
        # Records that may only be read are compared anew each time.
        return
