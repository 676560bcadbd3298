"""The executor `here`: cells in this process, or in all that torchrun started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.kit.distributed import on_main_process, rank
from harness.kit.progress import Pace
from harness.run.cell import Cell
from harness.run.executors import Executor
from harness.run.measure import Measurer
from harness.run.runner import measured, recounted, summary
from harness.run.store import Record, Store


class Here(Executor):
    """This process; where torchrun started several, all of them together: the first alone saves and has records."""

    def run(self, cells: Sequence[Cell], store: Store, measurer: Measurer, *, force: bool = False) -> Iterator[Record]:
        kept = on_main_process(lambda: {} if force else store.find(cell.key for cell in cells))
        left = [cell for cell in cells if cell.key not in kept]
        for cell in left:
            measurer.prepare(cell)
        pace = Pace([cell.task for cell in left])
        for number, cell in enumerate(cells, 1):
            record = kept.get(cell.key)
            measurer.progress.say(f"[{number}/{len(cells)}] {cell.label}{' (kept)' if record else pace.time_left()}")
            if record is None:
                with pace.cell(cell.task):
                    record, samples = measured(cell, measurer)
                if rank() == 0:
                    record = store.save(record, samples)
                measurer.progress.say(f"    {summary(record)}")
            else:
                record = recounted(cell, record, store, measurer)
            if rank() == 0:
                yield record
