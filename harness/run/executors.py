"""Where cells run. They are independent: an executor may run them anywhere, as long as each becomes a record.

Torch-free: an executor is a class in a module of its own, imported when it is asked for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from harness.kit.registry import unknown

if TYPE_CHECKING:
    from harness.run.cell import Cell
    from harness.run.measure import Measurer
    from harness.run.store import Record, Store

EXECUTORS = {"here": "harness.run.here:Here"}


class Executor(ABC):
    """Runs the cells that have no record yet."""

    @abstractmethod
    def run(self, cells: Sequence[Cell], store: Store, measurer: Measurer, *, force: bool = False) -> Iterator[Record]:
        """The records of all cells, each as soon as it is saved; `force` measures kept ones again.

        A cell that fails or runs out of memory becomes a record of that status and the run goes on; a save that
        fails, and Ctrl-C, end the run with the records so far kept. HarnessError, before anything is measured, for
        cells whose weights, size or data cannot be used.
        """


def named_executor(name: str) -> Executor:
    """The executor of a name; HarnessError with suggestions for one that does not exist."""
    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    module, _, kind = EXECUTORS[name].partition(":")
    made: Executor = getattr(import_module(module), kind)()
    return made
