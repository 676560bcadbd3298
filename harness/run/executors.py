"""Where cells are run: in this process, or in all that torchrun started; other places are other classes here.

Cells are independent: an executor may run them anywhere and in any order, as long as every cell becomes a record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial

from harness.kit.parallel import by_first
from harness.kit.progress import Pace
from harness.kit.ranks import rank
from harness.kit.registry import unknown
from harness.run.cell import Cell
from harness.run.measure import Measurer
from harness.run.runner import measured, recounted, summary
from harness.run.store import Record, Store


class Executor(ABC):
    """Runs the cells that have no record yet."""

    @abstractmethod
    def run(self, cells: Sequence[Cell], store: Store, measurer: Measurer, *, force: bool = False) -> Iterator[Record]:
        """The records of all cells in their order, each as soon as it is saved; `force` measures kept ones again.

        A cell that fails or runs out of memory becomes a record of that status and the run goes on; a save that
        fails, and Ctrl-C, end the run with the records so far kept. HarnessError, before anything is measured, for
        cells whose weights, size or data cannot be used.
        """


class Here(Executor):
    """This process; where torchrun started several, all of them together: the first alone saves and has records."""

    def run(self, cells: Sequence[Cell], store: Store, measurer: Measurer, *, force: bool = False) -> Iterator[Record]:
        kept = by_first(lambda: {} if force else store.find(cell.key for cell in cells))
        left = [cell for cell in cells if cell.key not in kept]
        for cell in left:
            measurer.prepare(cell)
        pace = Pace([cell.task for cell in left])
        for number, cell in enumerate(cells, 1):
            record = kept.get(cell.key)
            measurer.progress.say(f"[{number}/{len(cells)}] {cell.label}{' (kept)' if record else pace.told()}")
            if record is None:
                with pace.cell(cell.task):
                    record = measured(cell, measurer)
                saved = partial(store.save, *record)
                record = saved() if rank() == 0 else record[0]
                measurer.progress.say(f"    {summary(record)}")
            else:
                record = recounted(cell, record, store, measurer)
            if rank() == 0:
                yield record


EXECUTORS: dict[str, type[Executor]] = {"here": Here}


def executor(name: str) -> Executor:
    """The executor of a name; HarnessError with suggestions for one that does not exist."""
    if name not in EXECUTORS:
        raise unknown("executor", name, EXECUTORS)
    return EXECUTORS[name]()
