"""The executor `here`: cells in this process, or in all that torchrun started.

Several commands on one machine may fill one folder of records, each a GPU or a core of its own: a cell that another one
measures is left for later, and then taken from the folder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from harness.kit.distributed import on_main_process, rank, world
from harness.kit.progress import Pace
from harness.run.cell import Cell
from harness.run.claims import claimed
from harness.run.executors import Executor
from harness.run.measure import Measurer
from harness.run.runner import measured, recounted, summary
from harness.run.store import Record, Store

POLL_SECONDS = 2.0


class Here(Executor):
    """This process; where torchrun started several, all of them together: the first alone saves and has records."""

    def run(self, cells: Sequence[Cell], store: Store, measurer: Measurer, *, force: bool = False) -> Iterator[Record]:
        kept = on_main_process(lambda: {} if force else store.find(cell.key for cell in cells))
        left = [cell for cell in cells if cell.key not in kept]
        for cell in left:
            measurer.prepare(cell)
        pace = Pace([cell.task for cell in left])
        say = measurer.progress.say
        alone = force or world() > 1
        waiting, said = list(enumerate(cells, 1)), False
        while waiting:
            now, waiting = waiting, []
            for number, cell in now:
                begun = f"[{number}/{len(cells)}] {cell.label}"
                if cell.key in kept:
                    say(f"{begun} (kept)")
                    record = recounted(cell, kept[cell.key], store, measurer)
                else:
                    with nullcontext(True) if alone else claimed(cell, store.folder) as mine:
                        if not mine:
                            waiting.append((number, cell))
                            continue
                        found = None if alone else store.find([cell.key]).get(cell.key)
                        say(f"{begun}{' (measured by another command)' if found else pace.time_left()}")
                        record = found or _measured(cell, store, measurer, pace)
                        if found:
                            pace.drop(cell.task)
                if rank() == 0:
                    yield record
            if waiting and not said:
                said = True
                say(f"waiting for another command, which measures {len(waiting)} of the cells")
            if len(waiting) == len(now):
                time.sleep(POLL_SECONDS)


def _measured(cell: Cell, store: Store, measurer: Measurer, pace: Pace) -> Record:
    """The record of a cell that is run now, saved."""
    with pace.cell(cell.task):
        record, samples = measured(cell, measurer)
    if rank() == 0:
        record = store.save(record, samples)
    measurer.progress.say(f"    {summary(record)}")
    return record
