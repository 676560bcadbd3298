"""The quantities of records: what tasks, costs and throughput declare, read without importing what measures them."""

from __future__ import annotations

from functools import lru_cache

from harness.cost.quantities import COSTS, MENTIONED, extra_costs
from harness.evaluate.quantities import THROUGHPUT
from harness.kit.registry import tasks
from harness.metrics.quantity import Quantity, declared
from harness.train.quantities import TRAINED

OF_THROUGHPUT = {one.name: one for one in THROUGHPUT}


def of_costs() -> dict[str, Quantity]:
    """Cost -> its quantity, in the order of reading."""
    return {one.name: one for one in (*COSTS, *extra_costs().values(), *TRAINED, *MENTIONED)}


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
