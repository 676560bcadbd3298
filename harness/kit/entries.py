"""What there is of each kind, found in folders and entry points without importing it.

A method is a file of baselines/ (its name is the file's name) or an entry point of group `harness.methods`
("name = package.module:Class"); a task, a cost, an objective or a format of data sets is a file of harness/tasks/,
harness/cost/extra/, harness/objectives/ (of fine-tuning: its folder downstream/) or harness/data/formats/, or an entry
point of the group of that name; a study a YAML file of ablations/, or an entry point whose package holds it; a host
model is a preset of a folder of harness/hosts/ (a key of PRESETS in its model.py: albef, preset tiny: albef-tiny), or
of the module that an entry point of group `harness.models` names (its name is the family's).
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from harness.kit import packages
from harness.kit.errors import HarnessError

# The groups of entry points that are read.
_KINDS = ("methods", "models", "tasks", "costs", "objectives", "objectives.downstream", "formats", "studies")
GROUPS = tuple(f"harness.{kind}" for kind in _KINDS)
TOWER_FAMILIES = ("timm", "transformers")


@dataclass(frozen=True)
class Entry:
    """One name, the import target 'module[:attribute]', and its file where it has one.

    `about`: what it is, in a line; None where the first line of its file says it, which is read when it is asked for.
    `origin`: what brought it, where that is another package.
    """

    name: str
    about: str | None
    target: str
    path: Path | None = None
    origin: str = ""

    @property
    def summary(self) -> str:
        """One line about it."""
        said = self.about or ""
        if self.about is None and self.path is not None:
            said = summary_of(self.path.read_text(encoding="utf-8", errors="replace"))
        return f"{said} ({self.origin})" if said and self.origin else said or self.origin


@dataclass(frozen=True)
class Fault:
    """A name of which nothing can be made, and why, in a line."""

    name: str
    line: str


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


def extensible(package: str, group: str) -> Iterable[Entry]:
    """The files of a package, and what other packages add to it."""
    yield from _modules(package)
    yield from _points(group)


def _modules(package: str) -> Iterable[Entry]:
    folder = packages.package_folder(package)
    return _modules_in(folder, package, folder.stat().st_mtime_ns)


@lru_cache
def _modules_in(folder: Path, package: str, _changed: int) -> tuple[Entry, ...]:
    """The modules of a folder, listed again when a file came, went or was renamed."""
    files = sorted(path for path in folder.glob("*.py") if not path.name.startswith("_"))
    return tuple(Entry(path.stem, None, f"{package}.{path.stem}", path) for path in files)


def _points(group: str) -> Iterable[Entry]:
    for point in _found_points(group):
        origin = f"{f'{point.dist.name}, ' if point.dist else ''}entry point {point.value}"
        yield Entry(point.name, None, point.value, packages.module_file(point.value.partition(":")[0]), origin)


def _found_points(group: str) -> tuple[EntryPoint, ...]:
    return _entry_points(entry_points, group, tuple(map(_state_of, sys.path)))


@lru_cache
def _entry_points(find: Callable[..., Iterable[EntryPoint]], group: str, _state: object) -> tuple[EntryPoint, ...]:
    """The entry points of a group, looked for again when packages came or went: every package's own list is read."""
    return tuple(find(group=group))


def stray_groups(name: str) -> list[str]:
    """'my-package: harness.method' for entry points of a name in groups that look like those of GROUPS and are none."""
    found = set()
    for distribution in metadata.distributions():
        for point in distribution.entry_points:
            if point.name == name and point.group.startswith("harness") and point.group not in GROUPS:
                found.add(f"{distribution.metadata['Name']}: {point.group}")
    return sorted(found)


def _state_of(place: str) -> tuple[str, int]:
    """A folder that packages are found in, and when a name in it changed last; 0 where there is none."""
    try:
        return place, os.stat(place or ".").st_mtime_ns
    except OSError:  # sys.path may name what is not there
        return place, 0


def hosts() -> Iterable[Entry | Fault]:
    for path in packages.package_files("harness.hosts", "*/model.py"):
        family = path.parent.name
        yield from _read_hosts(family, f"harness.hosts.{family}.model", path)
    for point in _found_points("harness.models"):
        yield from _read_hosts(point.name, point.value, packages.module_file(point.value))


def _read_hosts(family: str, module: str, path: Path | None) -> Iterable[Entry | Fault]:
    """The hosts of a module, or why it has none that can be used."""
    if path is None:
        return [Fault(family, f"model {family!r} ({module}): no such module; install its package again")]
    try:
        return _hosts_of(family, module, path, path.stat().st_mtime_ns)
    except (HarnessError, SyntaxError, ValueError) as error:
        return [Fault(family, f"model {family!r} ({module}): cannot be read: {error}")]


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


def plain_vit(name: str) -> Entry | None:
    """A plain ViT by where it comes from: timm/NAME, transformers/FOLDER."""
    family, slash, rest = name.partition("/")
    if not (slash and rest and family in TOWER_FAMILIES):
        return None
    module = "harness.hosts.tower.model"
    return Entry(name, f"a ViT of {family}", module, packages.module_file(module))


def study_files() -> Iterable[Entry | Fault]:
    for path in packages.package_files("ablations", "*.yaml"):
        first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
        yield Entry(path.stem, first.lstrip("# ").strip(), f"ablations/{path.name}", path)
    for point in _found_points("harness.studies"):
        try:
            path = packages.package_folder(point.value) / f"{point.name}.yaml"
        except (HarnessError, ImportError) as error:
            yield Fault(point.name, f"study {point.name!r} ({point.value}): cannot be found: {error}")
            continue
        yield Entry(point.name, f"entry point {point.value}", f"{point.value}/{point.name}.yaml", path)


def load_class(entry: Entry) -> type:
    """The one class of an entry: the attribute its target names, or else the module's own class with a KIND."""
    module_name, _, attribute = entry.target.partition(":")
    try:
        module = packages.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a stranger's file: whatever it raises, it cannot be used
        # Of several lines the second says what is wrong (pydantic's errors of validation).
        said = [line.strip() for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
        raise HarnessError(f"{entry.name!r} ({entry.target}) cannot be imported: {' '.join(said[:2])}") from error
    if attribute and not hasattr(module, attribute):
        there = [name for name, value in vars(module).items() if isinstance(value, type) and hasattr(value, "KIND")]
        own = ", ".join(name for name in there if getattr(module, name).__module__ == module_name) or "none"
        raise HarnessError(f"{entry.name!r} ({entry.target}): {module_name} has no {attribute}; its classes: {own}")
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
