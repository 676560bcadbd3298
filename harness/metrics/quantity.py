"""What a number is called, in what unit it is shown, and which way is better: said once, by whoever makes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Quantity:
    """A metric or a cost. Its place in tables is that in the tuple it is declared in.

    `scale`: what a stored value is multiplied by to be in `unit`. `headline`: shown unless others are asked for; parts
    of a quantity that is shown are not. `with_text`: of a metric, whether images are seen beside a text, which guides
    text-guided methods.
    """

    name: str
    title: str
    unit: str = "%"
    scale: float = 100.0
    better: Literal["higher", "lower"] | None = "higher"
    headline: bool = True
    with_text: bool = True
