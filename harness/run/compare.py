"""Records beside dense and `random`: differences on the same samples, computed when read and kept beside them.

A record knows itself alone. What it differs by from another belongs to the pair, so it is kept by both records'
digests, for the code that compared them: a record that is measured again is another pair, and what was kept is never
stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from harness.kit.digest import canonical
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.kit.files import replace_all
from harness.kit.progress import SILENT, Progress
from harness.kit.sources import code_parts
from harness.run.store import Record, Store

if TYPE_CHECKING:
    import pandas as pd

Deltas = dict[str, dict[str, dict[str, Any]]]
Budget = tuple[str, float | None, str]
NAME = "comparisons.cache"
COMPARING = ("harness.metrics.stats", "harness.metrics.significance", "harness.metrics.seeds")
CONTROL = "random"
# With whom a metric is compared -> field of the comparison -> what a record that was read calls it.
NAMES = {
    "dense": {"delta": "delta_to_dense", "ci95": "delta_ci95", "p": "p_to_dense"},
    CONTROL: {"delta": "delta_to_random", "ci95": "delta_to_random_ci95", "p": "p_to_random"},
}
# What records that are compared have in common, beside their training.
SHARED = (
    *("model", "base", "protocol", "task", "task_options", "data", "data_digest", "split", "limit", "quick"),
    *("device", "hardware", "threads", "dtype", "image_size"),
)
# Of a stage of training: the method, the draw, and what content the draw gave.
OWN = {"method", "config", "settings", "seed", "digests"}
DRAWN = {"seed", "digests"}
_text = json.JSONEncoder(sort_keys=True).encode


def with_deltas(
    records: Sequence[Record],
    store: Store,
    warn: Callable[[str], None] = warn_on_stderr,
    progress: Progress = SILENT,
) -> list[Record]:
    """The records of a store, each metric with its difference to dense and to `random`, interval and p (NAMES); None
    where there is no such record. What was computed is kept, though the rest should be interrupted.

    Dense is the latest done record of the same host, data and task, after training that of the same seed. `random` is
    that of the same ratio, too: of the same seed, else of the first. Metrics of a setting with several seeds have
    `over_seeds` besides: the intervals of the mean over seeds. Where the samples of two records differ, `warn`
    gets the line that says so.
    """
    boards = {record["digest"]: _board(record["spec"]) for record in records}
    dense, drawn = _dense_of(records, boards), _random_of(records, boards)
    kept, found = _read(store), dict[str, Deltas]()
    differences_of = _Differences(store, warn)

    def once(name: str, compute: Callable[[], Deltas]) -> Deltas:
        """What is kept under a name, or computed now; nothing, which may be mended, is not kept."""
        if name not in kept and (deltas := compute()):
            found[name] = kept[name] = deltas
        return kept.get(name, {})

    def compared(record: Record, other: Record | None) -> Deltas:
        if other is None or record["status"] != "done" or record["spec"]["method"] == other["spec"]["method"]:
            return {}
        pair = f"{record['digest']} {other['digest']}"
        return once(pair, partial(differences_of, record, other))

    def joined(record: Record, beside: Record | None) -> Record:
        differences = {"dense": compared(record, beside)}
        spec = record["spec"]
        if spec["method"] != "dense":
            differences[CONTROL] = compared(record, _random_for(spec, drawn.get(_budget(record, boards), {})))
        quality = _joined(record["quality"], differences)
        for task, metrics in several.get(record["digest"], {}).items():
            for metric, entry in metrics.items():
                quality[task][metric] = {**quality[task][metric], "over_seeds": entry}
        return {**record, "quality": quality}

    besides = [dense.get(boards[record["digest"]]) if record["status"] == "done" else None for record in records]
    pairs, read = list(zip(records, besides, strict=True)), list[Record]()
    try:
        several = _of_several_seeds(pairs, store, once, warn)
        with progress.bar("comparing records", len(pairs)) as bar:
            for record, beside in pairs:
                read.append(joined(record, beside))
                bar.advance()
    finally:
        if found:
            _write(store, kept)
    return read


def _in_order(records: Iterable[Record]) -> list[Record]:
    return sorted(records, key=_started)


def _of_several_seeds(
    pairs: Sequence[tuple[Record, Record | None]],
    store: Store,
    once: Callable[[str, Callable[[], Deltas]], Deltas],
    warn: Callable[[str], None],
) -> dict[str, Deltas]:
    """By the digest of a record whose setting has several seeds: the intervals over them, of value and difference.

    Of a seed that was measured more than once, the latest counts.
    """
    groups: dict[str, dict[tuple[Any, ...], tuple[Record, Record | None]]] = {}
    for record, beside in sorted(pairs, key=lambda pair: _started(pair[0])):
        if record["status"] == "done":
            draws = record["spec"]["seed"], record["spec"]["config"].get("seed")
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
        read: dict[str, pd.DataFrame] = {}
        content = {record["digest"]: store.samples_digest(record) for record in (*records, *besides)}
        for record in (*records, *besides):
            if content[record["digest"]] not in read:
                read[content[record["digest"]]] = store.samples(record)
        dense = [read[content[one["digest"]]] for one in besides] if len(besides) == len(records) else None
        found = over_seeds([read[content[one["digest"]]] for one in records], dense)
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
    return _text([config, stages, own, *(spec.get(name) for name in SHARED)])


def _started(record: Record) -> str:
    return (record.get("run") or {}).get("started") or ""


def _dense_of(records: Iterable[Record], boards: Mapping[str, str]) -> dict[str, Record]:
    """The dense record of each board: the latest, if it is done. `boards`: of records, by their digest."""
    ordered = _in_order(records)
    latest = {boards[record["digest"]]: record for record in ordered if record["spec"]["method"] == "dense"}
    return {board: record for board, record in latest.items() if record["status"] == "done"}


def _random_of(records: Iterable[Record], boards: Mapping[str, str]) -> dict[Budget, dict[int, Record]]:
    """Seed -> the latest done record of `random` at each budget of each board."""
    found: dict[Budget, dict[int, Record]] = {}
    for record in _in_order(records):
        if record["spec"]["method"] == CONTROL and record["status"] == "done":
            found.setdefault(_budget(record, boards), {})[record["spec"]["seed"]] = record
    return found


def _random_for(spec: Mapping[str, Any], by_seed: Mapping[int, Record]) -> Record | None:
    """That of the same seed, or the first, of those at a record's budget."""
    return None if spec["ratio"] is None or not by_seed else by_seed.get(spec["seed"], by_seed[min(by_seed)])


def _budget(record: Record, boards: Mapping[str, str]) -> Budget:
    """What a record shares with the `random` that it is compared with: the board, and the budget that was asked for."""
    spec = record["spec"]
    return boards[record["digest"]], spec["ratio"], spec["match"]


def _board(spec: Mapping[str, Any]) -> str:
    """What a record shares with the dense record that it is compared with.

    Without training dense has one record for all seeds: it draws nothing.
    """
    stages = [{name: value for name, value in stage.items() if name not in OWN} for stage in spec["training"]]
    seed = spec["seed"] if stages else None
    return _text([stages, seed, *(spec.get(name) for name in SHARED)])


class _Differences:
    """Differences between records, computed once for the same two contents of samples; what others are compared with
    is read once.
    """

    def __init__(self, store: Store, warn: Callable[[str], None]) -> None:
        self._store, self._warn = store, warn
        self._tables: dict[str, pd.DataFrame] = {}
        self._computed: dict[tuple[str, str], Deltas] = {}

    def __call__(self, record: Record, other: Record) -> Deltas:
        """task -> metric -> difference to another record, its interval and p; nothing where samples differ, with a
        warning.
        """
        from harness.metrics.significance import p_values
        from harness.metrics.stats import deltas

        try:
            contents = self._store.samples_digest(record), self._store.samples_digest(other)
            if contents in self._computed:
                return self._computed[contents]
            if contents[1] not in self._tables:
                self._tables[contents[1]] = self._store.samples(other)
            here, there = self._store.samples(record), self._tables[contents[1]]
            found, chance = deltas(here, there), p_values(here, there)
        except HarnessError as error:
            self._warn(f"{record['samples']} is not compared with {other['samples']}: {error}")
            return {}
        self._computed[contents] = {
            task: {
                metric: {"delta": one["delta_to_dense"], "ci95": one["delta_ci95"], "p": chance[task][metric]}
                for metric, one in metrics.items()
            }
            for task, metrics in found.items()
        }
        return self._computed[contents]


def _joined(quality: Mapping[str, Any], differences: Mapping[str, Deltas]) -> dict[str, dict[str, Any]]:
    """Each metric's entry with its differences under NAMES."""
    joined: dict[str, dict[str, Any]] = {}
    for task, metrics in quality.items():
        compared = [(differences.get(whom, {}).get(task, {}), names.items()) for whom, names in NAMES.items()]
        joined[task] = {
            metric: entry
            | {
                name: found.get(field)
                for of, names in compared
                for found in (of.get(metric, {}),)
                for field, name in names
            }
            for metric, entry in metrics.items()
        }
    return joined


def _read(store: Store) -> dict[str, Deltas]:
    """What was computed before, by pair of digests; nothing where the file is missing, changed or of other code.

    A line for each pair, after one with the digest of all others and of the code.
    """
    try:
        first, _, rest = (store.folder / NAME).read_bytes().partition(b"\n")
        if first != _seal(rest):
            return {}
        return dict(json.loads(b"[" + rest.strip().replace(b"\n", b",") + b"]"))
    except (OSError, ValueError, RecursionError):
        return {}


def _seal(rest: bytes) -> bytes:
    """The digest of kept comparisons and of the code that makes them."""
    return hashlib.sha256(canonical(dict(code_parts(*COMPARING))) + rest).hexdigest().encode()


def _write(store: Store, pairs: dict[str, Deltas]) -> None:
    rest = "".join(json.dumps(entry) + "\n" for entry in sorted(pairs.items())).encode()
    try:
        replace_all({store.folder / NAME: _seal(rest) + b"\n" + rest})
    except OSError:
        # Records that may only be read are compared anew each time.
        return
