"""Names of methods, models, tasks, costs, objectives, studies and formats: listed, looked up, and what they stand for.

Where the names of a kind come from stands in harness/kit/entries.py. Nothing is imported until it is asked for.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from harness.kit.entries import (
    GROUPS,
    Entry,
    Fault,
    extensible,
    hosts,
    load_class,
    plain_vit,
    stray_groups,
    study_files,
)
from harness.kit.errors import HarnessError, warn_on_stderr

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
# Once for each line, however often names are listed.
_report = lru_cache(None)(warn_on_stderr)


class Registry:
    """The names of one kind; `scan` finds them anew at each listing, so that a dropped-in file counts at once."""

    def __init__(
        self,
        kind: str,
        scan: Callable[[], Iterable[Entry | Fault]],
        load: Callable[[Entry], Any],
        unlisted: Callable[[str], Entry | None] = lambda name: None,
    ) -> None:
        """`unlisted`: the entry of a name that stands for one of endlessly many (any ViT of timm), None for others."""
        self.kind = kind
        self._scan = scan
        self._load = load
        self._unlisted = unlisted
        self._seen: tuple[tuple[Entry | Fault, ...], tuple[dict[str, Entry], dict[str, str]]] = (), ({}, {})

    def entries(self) -> dict[str, Entry]:
        """All entries by name; those whose name is bad or found twice are reported and left out."""
        found, faults = self._scanned()
        for line in faults.values():
            _report(f"{line}; left out")
        return dict(sorted(found.items()))

    def _scanned(self) -> tuple[dict[str, Entry], dict[str, str]]:
        """The entries, and what is wrong with the others, by name; sorted out again where a scan finds others."""
        scanned = tuple(self._scan())
        if scanned != self._seen[0]:
            self._seen = scanned, self._sorted_out(scanned)
        return self._seen[1]

    def _sorted_out(self, scanned: Iterable[Entry | Fault]) -> tuple[dict[str, Entry], dict[str, str]]:
        found, faults = dict[str, Entry](), dict[str, str]()
        for entry in scanned:
            if isinstance(entry, Fault):
                faults[entry.name] = entry.line
            elif not NAME.fullmatch(entry.name):
                line = f"{self.kind} name {entry.name!r} ({entry.target}): expected lower-case letters, digits, - and _"
                faults[entry.name] = line
            elif entry.name in found:
                both = f"{found[entry.name].target} and {entry.target}"
                faults[entry.name] = f"{self.kind} {entry.name!r} is registered twice, by {both}: rename one"
            else:
                found[entry.name] = entry
        return {name: entry for name, entry in found.items() if name not in faults}, faults

    def names(self) -> list[str]:
        return list(self.entries())

    def entry(self, name: str) -> Entry:
        """The entry of a name; HarnessError with suggestions when there is none, and for one that was left out."""
        other = self._unlisted(name)
        if other is not None:
            return other
        found, faults = self._scanned()
        if name in faults:
            raise HarnessError(faults[name])
        if name not in found:
            raise unknown(self.kind, name, self.entries(), stray_groups(name))
        return found[name]

    def get(self, name: str) -> Any:
        """Import what a name stands for."""
        return self._load(self.entry(name))

    def all(self) -> list[Any]:
        """Import what every name stands for, by name; what cannot be imported is reported and left out."""
        return list(self.usable().values())

    def usable(self) -> dict[str, Any]:
        """What every name stands for, imported; what cannot be is reported and left out."""
        found = dict[str, Any]()
        for entry in self.entries().values():
            try:
                found[entry.name] = self._load(entry)
            except HarnessError as error:
                _report(f"{self.kind} {error}; left out")
        return found

    def expand(self, names: str, *, without: Sequence[str] = ()) -> tuple[str, ...]:
        """'a,b' or 'all' as names that exist, each once, in the order given; HarnessError for others and for none.

        All are those that can be imported.
        """
        if names.strip() == "all":
            return tuple(name for name in self.usable() if name not in without)
        chosen = [name.strip() for name in names.split(",") if name.strip()]
        if not chosen:
            raise HarnessError(f"no {self.kind} named; known: {', '.join(self.names())}")
        for name in chosen:
            self.entry(name)
        return tuple(dict.fromkeys(chosen))


def module_of(registry: Registry, name: str) -> str:
    """The module that a name's class is defined in, without importing it; HarnessError for an unknown name."""
    return registry.entry(name).target.partition(":")[0]


def unknown(kind: str, name: str, known: Iterable[str], stray: Sequence[str] = ()) -> HarnessError:
    """The error for a name nobody knows: the nearest names, then all of them; before them `stray` entry points."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    if stray:
        hint = f"a package names it in a group that nothing reads ({', '.join(stray)}), expected {', '.join(GROUPS)}; "
    return HarnessError(f"unknown {kind} {name!r}: {hint}known: {', '.join(names) or 'none'}")


methods = Registry("method", lambda: extensible("baselines", "harness.methods"), load_class)
models = Registry("model", hosts, load_class, plain_vit)
tasks = Registry("task", lambda: extensible("harness.tasks", "harness.tasks"), load_class)
costs = Registry("cost", lambda: extensible("harness.cost.extra", "harness.costs"), load_class)
studies = Registry("study", study_files, lambda entry: entry.path)
objectives = Registry("objective", lambda: extensible("harness.objectives", "harness.objectives"), load_class)
downstream = Registry(
    "objective of fine-tuning",
    lambda: extensible("harness.objectives.downstream", "harness.objectives.downstream"),
    load_class,
)
formats = Registry("format", lambda: extensible("harness.data.formats", "harness.formats"), load_class)
KINDS = {
    "methods": methods,
    "models": models,
    "tasks": tasks,
    "costs": costs,
    "objectives": objectives,
    "studies": studies,
    "formats": formats,
}
