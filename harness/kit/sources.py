"""Which source files a result comes from: imports are followed without running them, and the files digested by part.

A part is what a reader would name as the reason that a number may have changed: a file of baselines/, the folder of a
host, a task's file, or a room of harness/ as far as it is imported.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from harness.kit.packages import module_file

# They name, report and keep; no number depends on them, and every module imports them.
NEUTRAL = frozenset(
    {"harness", "harness.kit.errors", "harness.kit.files", "harness.kit.progress"}
    | {"harness.kit.packages", "harness.kit.entries", "harness.kit.registry"}
)
# Numbers that a record states: a host's recipes in the spec of the stage that is trained by them, the sizes of worlds
# in the digests of their data.
NUMBERS = re.compile(r"harness\.hosts\.\w+\.recipes|harness\.data\.presets")
# Rooms of which each file, or each folder, is a part of its own.
BY_FILE = (
    "harness.tasks",
    "harness.objectives.downstream",
    "harness.objectives",
    "harness.data.formats",
    "baselines",
)
BY_FOLDER = ("harness.hosts",)
# Of what lies in a package beside its modules: weights are digested where they are loaded.
LARGEST_DATA_BYTES = 2**24
# Folders below the rooms of BY_FILE, which are one part each.
SHARED = ("parts", "downstream")


@lru_cache
def code_parts(*roots: str) -> Mapping[str, str]:
    """Part -> digest (12 hex digits) of the files that modules import, directly or not, their own included.

    Imports are followed within harness/, baselines/ and the packages of the roots; from these also into others that are
    edited in place (not in site-packages). What lies in a package of the roots beside its modules counts too.
    """
    contents: dict[str, hashlib._Hash] = {}
    found = closure(roots)
    for module, path in sorted(found.items()):
        digest = contents.setdefault(part_of(module), hashlib.sha256())
        digest.update(f"{module}\0".encode() + path.read_bytes() + b"\0")
    for package, path in sorted(found.items()):
        if _is_foreign(package) and "." not in package and path.name == "__init__.py":
            for other in _data_files(path.parent):
                name = other.relative_to(path.parent).as_posix()
                contents[part_of(package)].update(f"{name}\0".encode() + other.read_bytes() + b"\0")
    return {part: digest.hexdigest()[:12] for part, digest in contents.items()}


def place_in(error: BaseException, module: str) -> str:
    """'file.py, line 7: ', the innermost place of an error in the package of a module; "" where it passed none."""
    package = module.partition(".")[0]
    place, trace = "", error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] == package:
            place = f"{Path(frame.f_code.co_filename).name}, line {trace.tb_lineno}: "
        trace = trace.tb_next
    return place


def part_of(module: str) -> str:
    """The part that a module belongs to, as a path: harness/data, harness/hosts/albef, harness/tasks/vqa.py."""
    words = module.split(".")
    for room in BY_FILE:
        if module.startswith(f"{room}."):
            inner = words[len(room.split(".")) :]
            name = f"{room}.{inner[0]}".replace(".", "/")
            return name if len(inner) > 1 or inner[0] in SHARED else f"{name}.py"
    for room in BY_FOLDER:
        if module.startswith(f"{room}.") and len(words) > len(room.split(".")) + 1:
            return "/".join(words[: len(room.split(".")) + 1])
    return "/".join(words[:2] if words[0] == "harness" else words[:1])


def closure(roots: Iterable[str]) -> dict[str, Path]:
    """Modules that the roots import, directly or not, and the roots themselves, each with its file."""
    packages = frozenset({"harness", "baselines", *(root.partition(".")[0] for root in roots)})
    found: dict[str, Path] = {}
    waiting = [root for root in roots if _counts(root)]
    while waiting:
        module = waiting.pop()
        if module not in found and (path := module_file(module) if module not in _nodes else _nodes[module][0]):
            found[module] = path
            edited = _is_edited if _is_foreign(module) else lambda _: False
            tops = ((name, name.partition(".")[0]) for name in _imported(module, path))
            waiting += (name for name, top in tops if top in packages or edited(top))
    return found


def _data_files(folder: Path) -> list[Path]:
    """Files of a package that are no modules, such as tables that it reads."""
    found = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.suffix not in (".py", ".pyc"):
            found.append(path)
    return [path for path in found if path.stat().st_size <= LARGEST_DATA_BYTES]


@lru_cache(None)
def _is_edited(package: str) -> bool:
    """Whether a package or module is edited where it lies: it is neither Python's own nor in site-packages."""
    if package in sys.builtin_module_names or package in sys.stdlib_module_names:
        return False
    path = module_file(package)
    installed = (sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib"))
    return path is not None and not any(path.is_relative_to(folder) for folder in installed)


def forget() -> None:
    """Read every file again: for tests, which change them while the program runs."""
    _is_edited.cache_clear()
    _nodes.clear()
    code_parts.cache_clear()


# Module -> its file, and the modules that it imports; found once in a process.
_nodes: dict[str, tuple[Path, tuple[str, ...]]] = {}


def _imported(module: str, path: Path) -> tuple[str, ...]:
    """The modules that a module imports, and the packages that it lies in, as far as they count."""
    if module not in _nodes:
        parents = {module.rsplit(".", count)[0] for count in range(1, module.count(".") + 1)}
        names = parents | _imports(path, module, path.stat().st_mtime_ns)
        _nodes[module] = (
            path,
            tuple(name for name in sorted(names) if _counts(name) and (_is_foreign(name) or module_file(name))),
        )
    return _nodes[module][1]


def _is_foreign(name: str) -> bool:
    return name.partition(".")[0] not in ("harness", "baselines")


def _counts(module: str) -> bool:
    return module not in NEUTRAL and not NUMBERS.fullmatch(module)


@lru_cache(None)
def _imports(path: Path, module: str, _changed: int) -> set[str]:
    """The names that a file imports, wherever in it, as absolute ones; some may name what is no module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    tree = ast.parse(path.read_bytes())
    if _is_foreign(module):
        found |= {name for node in ast.walk(tree) if (name := _imported_by_name(node))}
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(word for word in (above, node.module) if word)
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def _imported_by_name(node: ast.AST) -> str | None:
    """The module of a call import_module("name") or __import__("name")."""
    if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
        return None
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
    name = node.args[0].value
    known = called in ("import_module", "__import__") and isinstance(name, str) and not name.startswith(".")
    return name if known and isinstance(name, str) else None


def _statements(module: ast.Module) -> Iterator[ast.AST]:
    """All statements of a module, wherever in it; expressions, which are most of a tree, hold none."""
    waiting: list[ast.AST] = [module]
    while waiting:
        node = waiting.pop()
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, field, ())
