"""What a number is called, in what unit it is shown, and which way is better: said once, by whoever makes it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.kit.errors import HarnessError


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


def declared(path: Path) -> Iterator[Quantity]:
    """The `quantities` of a task's or a cost's file, read without import.

    HarnessError where they are no tuple of Quantity(…) with literal arguments.
    """
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.Assign) or [ast.unparse(one) for one in node.targets] != ["quantities"]:
            continue
        try:
            stated: Any = node.value
            for call in stated.elts:
                words = [ast.literal_eval(value) for value in call.args]
                yield Quantity(*words, **{word.arg: ast.literal_eval(word.value) for word in call.keywords})
        except (AttributeError, TypeError, ValueError) as error:
            line = f"{path}, line {node.lineno}: quantities: expected a tuple of Quantity(…) with literal arguments"
            raise HarnessError(line) from error
