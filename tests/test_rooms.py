"""The order of the rooms: nothing imports upwards, and no rooms import each other in a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
# From the ground up: a room may import those before it. docs/design.md says what each is for.
ROOMS = (
    *("kit", "metrics", "data", "reduction", "hosts", "objectives", "evaluate", "tasks", "cost", "train", "run"),
    *("report", "check", "cli"),
)


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_no_room_imports_upwards():
    upwards = {
        f"{path.relative_to(ROOT)} imports {module}"
        for here, room in enumerate(ROOMS)
        for path in (ROOT / "harness" / room).rglob("*.py")
        for module in imported(path)
        if module.startswith("harness.") and module.split(".")[1] in ROOMS[here + 1 :]
    }
    assert not upwards


def test_no_files_import_each_other_in_a_circle():
    files = [path for room in ("harness", "baselines") for path in (ROOT / room).rglob("*.py")]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}
    imports = {module: imported(path) & modules.keys() for module, path in modules.items()}
    assert len(list(TopologicalSorter(imports).static_order())) == len(files)  # raises CycleError, which names them


def test_the_root_holds_two_files_and_the_rooms():
    root = ROOT / "harness"
    assert {path.name for path in root.glob("*.py")} == {"__init__.py", "__main__.py"}
    assert {path.parent.name for path in root.glob("*/__init__.py")} == set(ROOMS)


def test_methods_import_the_common_interface_alone():
    for path in (ROOT / "baselines").glob("*.py"):
        ours = {name for name in imported(path) if name.startswith("harness.")}
        assert all(name.startswith("harness.reduction.") or name == "harness.reduction" for name in ours), path


def test_nothing_imports_a_method_by_name():
    for path in (ROOT / "harness").rglob("*.py"):
        assert not any(name.startswith("baselines") for name in imported(path)), path


def test_training_imports_no_host_and_no_objective_by_name():
    families = {path.parent.name for path in (ROOT / "harness" / "hosts").glob("*/model.py")}
    objectives = {path.stem for path in (ROOT / "harness" / "objectives").glob("*.py")} - {"__init__"}
    named = {f"harness.hosts.{family}" for family in families} | {f"harness.objectives.{name}" for name in objectives}
    named.add("harness.objectives.downstream")
    for path in (ROOT / "harness" / "train").rglob("*.py"):
        assert not {name for name in imported(path) if ".".join(name.split(".")[:3]) in named}, path
