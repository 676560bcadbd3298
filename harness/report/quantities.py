"""The quantities of records: what tasks, costs and throughput declare, read without importing what measures them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from harness.cost.quantities import COSTS, MENTIONED
from harness.evaluate.quantities import THROUGHPUT
from harness.kit.errors import HarnessError
from harness.kit.registry import tasks
from harness.metrics.quantity import Quantity

OF_COST = {one.name: one for one in (*COSTS, *MENTIONED)}
OF_THROUGHPUT = {one.name: one for one in THROUGHPUT}


@lru_cache(1)
def of_metrics() -> dict[tuple[str, str], Quantity]:
    """(task, metric) -> its quantity, in the order of reading: tasks by name, metrics as they are declared."""
    return {
        (entry.name, quantity.name): quantity
        for entry in tasks.entries().values()
        if entry.path is not None
        for quantity in declared(entry.path)
    }


def quantity_of(task: str, metric: str) -> Quantity:
    """The quantity of a metric; one that no task declares any more is called by its name, in %."""
    return of_metrics().get((task, metric)) or Quantity(metric, metric.replace("_", " "))


def declared(path: Path) -> Iterator[Quantity]:
    """The `quantities` of a task's file; HarnessError where they are no tuple of Quantity(…) with literal arguments."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if not isinstance(node, ast.Assign) or [ast.unparse(one) for one in node.targets] != ["quantities"]:
            continue
        try:
            for call in node.value.elts:  # type: ignore[attr-defined]
                words = [ast.literal_eval(value) for value in call.args]
                yield Quantity(*words, **{word.arg: ast.literal_eval(word.value) for word in call.keywords})
        except (AttributeError, TypeError, ValueError) as error:
            line = f"{path}, line {node.lineno}: quantities: expected a tuple of Quantity(…) with literal arguments"
            raise HarnessError(line) from error
