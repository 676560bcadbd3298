"""The common interface of token reduction: all that a method's file needs to import.

Each name is imported when it is asked for, so that schedules can be read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.kit.draws import uniform as uniform
    from harness.kit.errors import HarnessError as HarnessError
    from harness.kit.settings import validated as validated
    from harness.reduction.method import EVIDENCE_KINDS as EVIDENCE_KINDS
    from harness.reduction.method import Evidence as Evidence
    from harness.reduction.method import Guide as Guide
    from harness.reduction.method import Looking as Looking
    from harness.reduction.method import MethodConfig as MethodConfig
    from harness.reduction.method import TokenReducer as TokenReducer
    from harness.reduction.method import Tower as Tower
    from harness.reduction.method import TowerShape as TowerShape
    from harness.reduction.method import Trace as Trace
    from harness.reduction.method import encode as encode
    from harness.reduction.method import sample_keys as sample_keys
    from harness.reduction.schedule import Ratio as Ratio
    from harness.reduction.schedule import Schedule as Schedule
    from harness.reduction.tokens import PHASES as PHASES
    from harness.reduction.tokens import Pooled as Pooled
    from harness.reduction.tokens import TokenState as TokenState
    from harness.reduction.tokens import current_phase as current_phase
    from harness.reduction.tokens import phase as phase
    from harness.reduction.tokens import split_top as split_top
    from harness.reduction.tokens import take as take

_HOMES = {
    "harness.kit.draws": ("uniform",),
    "harness.kit.errors": ("HarnessError",),
    "harness.kit.settings": ("validated",),
    "harness.reduction.method": (
        *("EVIDENCE_KINDS", "Evidence", "Guide", "Looking", "MethodConfig", "TokenReducer", "Tower", "TowerShape"),
        *("Trace", "encode", "sample_keys"),
    ),
    "harness.reduction.schedule": ("Ratio", "Schedule"),
    "harness.reduction.tokens": ("PHASES", "Pooled", "TokenState", "current_phase", "phase", "split_top", "take"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'harness.reduction' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
