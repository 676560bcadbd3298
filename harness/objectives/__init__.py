"""What pre-training minimises: one file each, named by `pretrain --objective`; fine-tuning's are in downstream/.

A file holds one class with its Config (see parts/objective.py); a host's own objective has the name of its family.
Each name is imported when it is asked for, so that a recipe can be read without what trains.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.objectives.parts.choice import Choice as Choice
    from harness.objectives.parts.choice import choose as choose
    from harness.objectives.parts.choice import choose_downstream as choose_downstream
    from harness.objectives.parts.choice import make_objective as make_objective

__all__ = ["Choice", "choose", "choose_downstream", "make_objective"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'harness.objectives' has no attribute {name!r}")
    return getattr(import_module("harness.objectives.parts.choice"), name)
