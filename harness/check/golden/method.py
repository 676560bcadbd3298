"""Compare methods with float64 reference vectors that were computed with the authors' released programs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.check.golden.file import Golden, read_golden
from harness.check.golden.vit import check_vit, of_tower
from harness.kit.errors import HarnessError
from harness.kit.packages import package_files

TOLERANCE = 1e-8
PACKAGES = ("harness.check.golden.methods", "harness.check.golden.objectives")


def check_method(golden: Golden) -> dict[str, float]:
    """Largest absolute error by output, as the method's or the objective's file in harness/check/golden/ reads it."""
    name = golden.config["method"]
    known = {path.stem: package for package in PACKAGES for path in package_files(package, "*.py")}
    if name not in known:
        raise HarnessError(f"golden of method {name!r}: expected {', '.join(sorted(known))}")
    module = importlib.import_module(f"{known[name]}.{name}")
    if hasattr(module, "check"):
        found: dict[str, float] = module.check(golden)
        return found
    return check_vit(golden, module.settings(golden.config), getattr(module, "parameter", of_tower))


@dataclass(frozen=True)
class HostKind:
    """A kind of golden that checks a whole host: the key that only its config has, and `module:function`."""

    key: str
    check: str


HOST_KINDS = {
    "albef": HostKind("bert", "harness.check.golden.albef:check_albef"),
    "blip": HostKind("med", "harness.check.golden.blip:check_blip"),
    "meter": HostKind("roberta", "harness.check.golden.meter:check_meter"),
    "clip": HostKind("guidance", "harness.check.golden.clip:check_clip"),
}


def check_file(path: Path) -> float:
    """Largest absolute error of one golden file of any kind."""
    golden = read_golden(path)
    try:
        if "method" in golden.config:
            return max(check_method(golden).values())
        for kind in HOST_KINDS.values():
            if kind.key in golden.config:
                module, _, function = kind.check.partition(":")
                errors: dict[str, float] = getattr(importlib.import_module(module), function)(golden)
                return max(errors.values())
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise HarnessError(f"{path}: its config and tensors do not fit: {type(error).__name__} {reason}") from error
    raise HarnessError(f"{path}: a golden of an unknown kind; known: methods, {', '.join(HOST_KINDS)}")


def lines(paths: Sequence[Path]) -> list[tuple[str, bool]]:
    """One line per file: name, largest absolute error, ok or FAIL. A file that cannot be checked fails, saying why."""
    found = []
    for path in paths:
        try:
            error = check_file(path)
        except HarnessError as reason:
            found.append((f"{path.name}  -  FAIL  {reason}", False))
            continue
        good = error <= TOLERANCE
        found.append((f"{path.name}  {error:.3e}  {'ok' if good else 'FAIL'}", good))
    return found
