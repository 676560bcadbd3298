"""What a cost of one's own is: a class in a file of harness/cost/extra/, with its quantities and one `measure`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from harness.kit.errors import HarnessError
from harness.kit.registry import costs
from harness.metrics.quantity import Quantity
from harness.reduction import TokenReducer
from harness.reduction.plan import Sample

# Keys that a cost report is given after it was made.
LATER = frozenset({"code", "encodings", "host", "spread"})


class Cost(ABC):
    """Base class. `quantities`: what `measure` returns, as tables show it: `Quantity(…)` with literal arguments."""

    KIND: ClassVar[str] = "cost"
    quantities: ClassVar[tuple[Quantity, ...]] = ()

    @abstractmethod
    def measure(
        self, model: nn.Module, reducer: TokenReducer[Any], report: Mapping[str, Any], sample: Sample | None
    ) -> Mapping[str, float]:
        """The value of each quantity for a method in a tower, both left as they are.

        model: it may be on the meta device, without weights. report: the cost report so far. sample: the real images
        that an adaptive method is counted on.
        """


def extra_parts(
    model: nn.Module, reducer: TokenReducer[Any], report: Mapping[str, Any], sample: Sample | None
) -> dict[str, dict[str, float]]:
    """What every registered cost measures, by its name; HarnessError for a name that a report uses otherwise."""
    found = {}
    for name in costs.names():
        if name in report or name in LATER:
            raise HarnessError(f"cost {name}: a cost report has another entry of this name; rename it")
        found[name] = dict(costs.get(name)().measure(model, reducer, report, sample))
        for quantity, value in found[name].items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise HarnessError(f"cost {name}: {quantity} is {value!r}, expected a finite number")
    return found
