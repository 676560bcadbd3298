"""Where packages and modules lie, found without importing them, and modules imported by their names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from harness.kit.errors import HarnessError

# Folders that stand beside harness/, whatever a folder of the same name elsewhere may hold.
BESIDE = frozenset({"baselines", "ablations"})


def package_files(package: str, pattern: str) -> list[Path]:
    """Files of an importable folder that match, without importing it; private ones left out."""
    return [path for path in sorted(package_folder(package).glob(pattern)) if not path.name.startswith("_")]


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


def import_module(name: str) -> ModuleType:
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
