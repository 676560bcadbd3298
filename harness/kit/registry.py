"""Names of methods, models, tasks, costs, objectives, studies and formats, listed without importing what they name.

A method is a file of baselines/ (its name is the file's name) or an entry point of group `harness.methods`
("name = package.module:Class"); a task, a cost, an objective or a format of data sets is a file of harness/tasks/,
harness/cost/extra/, harness/objectives/ (of fine-tuning: its folder downstream/) or harness/data/formats/, or an entry
point of the group of that name; a study a YAML file of ablations/, or an entry point whose package holds it; a host
model is a preset of a folder of harness/hosts/ (a key of PRESETS in its model.py: albef, preset tiny: albef-tiny), or
of the module that an entry point of group `harness.models` names (its name is the family's).
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.kit.errors import HarnessError, warn_on_stderr

TOWER_FAMILIES = ("timm", "transformers")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Entry:
    """One name, the import target 'module[:attribute]', and its file where it has one.

    `about`: what it is, in a line; None where the first line of its file says it, which is read when it is asked for.
    """

    name: str
    about: str | None
    target: str
    path: Path | None = None

    @property
    def summary(self) -> str:
        """One line about it."""
        if self.about is not None or self.path is None:
            return self.about or ""
        return summary_of(self.path.read_text(encoding="utf-8", errors="replace"))


@dataclass(frozen=True)
class Fault:
    """A name of which nothing can be made, and why, in a line."""

    name: str
    line: str


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

    def entries(self) -> dict[str, Entry]:
        """All entries by name; those whose name is bad or found twice are reported and left out."""
        found, faults = self._scanned()
        for line in faults.values():
            _report(f"{line}; left out")
        return dict(sorted(found.items()))

    def _scanned(self) -> tuple[dict[str, Entry], dict[str, str]]:
        """The entries, and what is wrong with the others, by name."""
        found, faults = dict[str, Entry](), dict[str, str]()
        for entry in self._scan():
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
            raise unknown(self.kind, name, self.entries())
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


def unknown(kind: str, name: str, known: Iterable[str]) -> HarnessError:
    """The error for a name nobody knows: the nearest names, then all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return HarnessError(f"unknown {kind} {name!r}: {hint}known: {', '.join(names) or 'none'}")


def stated(entry: Entry, attribute: str) -> str:
    """The text that a class in an entry's file gives an attribute, read without importing it; empty where none does."""
    return "" if entry.path is None else _stated(entry.path, attribute, entry.path.stat().st_mtime_ns)


@lru_cache
def _stated(path: Path, attribute: str, _changed: int) -> str:
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError):
        return ""  # it cannot be imported either, which says why
    classes = [node for node in body if isinstance(node, ast.ClassDef)]
    for node in (node for one in classes for node in one.body if isinstance(node, (ast.Assign, ast.AnnAssign))):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        named = any(isinstance(target, ast.Name) and target.id == attribute for target in targets)
        if named and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return node.value.value
    return ""


def summary_of(source: str) -> str:
    """First line of a module's docstring, read without importing it."""
    try:
        docstring = ast.get_docstring(ast.parse(source)) or ""
    except SyntaxError as error:
        return f"(cannot be read: {error.msg}, line {error.lineno})"
    except ValueError as error:  # Python 3.11, of null bytes
        return f"(cannot be read: {error})"
    return docstring.partition("\n")[0]


def package_files(package: str, pattern: str) -> list[Path]:
    """Files of an importable folder that match, without importing it; private ones left out."""
    return [path for path in sorted(package_folder(package).glob(pattern)) if not path.name.startswith("_")]


# Folders that stand beside harness/, whatever a folder of the same name elsewhere may hold.
BESIDE = frozenset({"baselines", "ablations"})


def package_folder(package: str) -> Path:
    """Where an importable folder lies, without importing it."""
    beside = Path(__file__).parents[2] / package
    if package in BESIDE and beside.is_dir():
        return beside
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise HarnessError(f"the folder {package}/ is not installed beside harness/: install the project again")
    return Path(spec.submodule_search_locations[0])


def module_file(module: str) -> Path | None:
    """The file of a module, without importing it; None where the name is no module (a class, a function)."""
    package, *rest = module.split(".")
    spec = None if package in BESIDE else importlib.util.find_spec(package)
    if package not in BESIDE and (spec is None or not spec.submodule_search_locations):
        # no package: a file of its own, or nothing
        return None if spec is None or spec.origin is None or rest else Path(spec.origin)
    place = package_folder(package).joinpath(*rest)
    files = (place / "__init__.py", place.with_name(f"{place.name}.py") if rest else place / "__init__.py")
    return next((path for path in files if path.is_file()), None)


def _modules(package: str) -> Iterable[Entry]:
    folder = package_folder(package)
    return _modules_in(folder, package, folder.stat().st_mtime_ns)


@lru_cache
def _modules_in(folder: Path, package: str, _changed: int) -> tuple[Entry, ...]:
    """The modules of a folder, listed again when a file came, went or was renamed."""
    files = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))
    return tuple(Entry(path.stem, None, f"{package}.{path.stem}", path) for path in files)


def _extensible(package: str, group: str) -> Iterable[Entry]:
    """The files of a package, and what other packages add to it."""
    yield from _modules(package)
    yield from _points(group)


def _points(group: str) -> Iterable[Entry]:
    for point in _found_points(group):
        origin = f" ({point.dist.name})" if point.dist else ""
        path = module_file(point.value.partition(":")[0])
        yield Entry(point.name, f"entry point {point.value}{origin}", point.value, path)


def _found_points(group: str) -> tuple[EntryPoint, ...]:
    return _entry_points(entry_points, group, tuple(map(_state_of, sys.path)))


@lru_cache
def _entry_points(find: Callable[..., Iterable[EntryPoint]], group: str, _state: object) -> tuple[EntryPoint, ...]:
    """The entry points of a group, looked for again when packages came or went: every package's own list is read."""
    return tuple(find(group=group))


def _state_of(place: str) -> tuple[str, int]:
    """A folder that packages are found in, and when a name in it changed last; 0 where there is none."""
    try:
        return place, os.stat(place or ".").st_mtime_ns
    except OSError:  # sys.path may name what is not there
        return place, 0


def _hosts() -> Iterable[Entry | Fault]:
    for path in package_files("harness.hosts", "*/model.py"):
        family = path.parent.name
        yield from _read_hosts(family, f"harness.hosts.{family}.model", path)
    for point in _found_points("harness.models"):
        yield from _read_hosts(point.name, point.value, module_file(point.value))


def _read_hosts(family: str, module: str, path: Path | None) -> Iterable[Entry | Fault]:
    """The hosts of a module, or why it has none that can be used."""
    if path is None:
        return [Fault(family, f"model {family!r} ({module}): no such module; install its package again")]
    try:
        return _hosts_of(family, module, path, path.stat().st_mtime_ns)
    except (HarnessError, SyntaxError, ValueError) as error:
        return [Fault(family, f"model {family!r} ({module}): cannot be read: {error}")]


def _towers(name: str) -> Entry | None:
    """A plain ViT by where it comes from: timm/NAME, transformers/FOLDER."""
    family, slash, rest = name.partition("/")
    if not (slash and rest and family in TOWER_FAMILIES):
        return None
    module = "harness.hosts.tower.model"
    return Entry(name, f"a ViT of {family}", module, module_file(module))


@lru_cache
def _hosts_of(family: str, module: str, path: Path, _changed: int) -> tuple[Entry, ...]:
    """The hosts of a module's file, read again when it has changed."""
    source = path.read_text(encoding="utf-8")
    presets = [preset for node in ast.parse(source).body for preset in _presets(node, path)]
    return tuple(Entry(f"{family}-{preset}", None, module, path) for preset in presets)


def _presets(node: ast.stmt, path: Path) -> Iterable[str]:
    """The keys of a module's `PRESETS = {"name": ...}`, annotated or not; nothing for other statements.

    They are to be literal strings, read without import; what they stand for may be any expression.
    """
    if not isinstance(node, (ast.Assign, ast.AnnAssign)):
        return ()
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    if not any(isinstance(target, ast.Name) and target.id == "PRESETS" for target in targets):
        return ()
    keys = node.value.keys if isinstance(node.value, ast.Dict) else [None]
    names = [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    if len(names) < len(keys):
        raise HarnessError(f"{path}, line {node.lineno}: PRESETS: expected a dict with literal strings as keys")
    return names


def _studies() -> Iterable[Entry | Fault]:
    for path in package_files("ablations", "*.yaml"):
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        yield Entry(path.stem, first.lstrip("# ").strip(), f"ablations/{path.name}", path)
    for point in _found_points("harness.studies"):
        try:
            path = package_folder(point.value) / f"{point.name}.yaml"
        except (HarnessError, ImportError) as error:
            yield Fault(point.name, f"study {point.name!r} ({point.value}): cannot be found: {error}")
            continue
        yield Entry(point.name, f"entry point {point.value}", f"{point.value}/{point.name}.yaml", path)


def _imported(name: str) -> ModuleType:
    """A module by its name; of a folder beside harness/ that folder's, also where another of its name is found first.

    The other one stays what `import` finds.
    """
    package = name.partition(".")[0]
    if package not in BESIDE or name in sys.modules:
        return importlib.import_module(name)
    other, folder = sys.modules.get(package), package_folder(package)
    if other is not None and str(folder) in getattr(other, "__path__", ()):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(
        package, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    own = importlib.util.module_from_spec(spec)
    sys.modules[package] = own
    try:
        spec.loader.exec_module(own)
        return importlib.import_module(name)
    finally:
        if other is not None:
            sys.modules[package] = other


def _load_class(entry: Entry) -> type:
    """The one class of an entry: the attribute its target names, or else the module's own class with a KIND."""
    module_name, _, attribute = entry.target.partition(":")
    try:
        module = _imported(module_name)
    except (Exception, SystemExit) as error:  # a stranger's file: whatever it raises, it cannot be used
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise HarnessError(f"{entry.name!r} ({entry.target}) cannot be imported: {reason}") from error
    found = [getattr(module, attribute, None)] if attribute else list(vars(module).values())
    classes = [value for value in found if isinstance(value, type) and hasattr(value, "KIND")]
    if not attribute:
        classes = [value for value in classes if value.__module__ == module_name]
    if len(classes) != 1:
        raise HarnessError(
            f"{entry.name!r} ({entry.target}): expected exactly one class of a method, task, host, cost, objective or "
            f"format there, found {len(classes)}"
        )
    return classes[0]


methods = Registry("method", lambda: _extensible("baselines", "harness.methods"), _load_class)
models = Registry("model", _hosts, _load_class, _towers)
tasks = Registry("task", lambda: _extensible("harness.tasks", "harness.tasks"), _load_class)
costs = Registry("cost", lambda: _extensible("harness.cost.extra", "harness.costs"), _load_class)
studies = Registry("study", _studies, lambda entry: entry.path)
objectives = Registry("objective", lambda: _extensible("harness.objectives", "harness.objectives"), _load_class)
downstream = Registry(
    "objective of fine-tuning",
    lambda: _extensible("harness.objectives.downstream", "harness.objectives.downstream"),
    _load_class,
)
formats = Registry("format", lambda: _extensible("harness.data.formats", "harness.formats"), _load_class)
KINDS = {
    "methods": methods,
    "models": models,
    "tasks": tasks,
    "costs": costs,
    "objectives": objectives,
    "studies": studies,
    "formats": formats,
}
