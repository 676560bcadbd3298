"""Which cells this command measures, where several on one machine share a folder of records.

A cell is claimed by a lock file beside the records, which the system frees when a command is killed. Cells whose
weights come from one training are claimed together, so that no command waits for a training of another's while there
is something else to do. Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

from harness.kit.digest import key_of
from harness.kit.errors import warn_on_stderr
from harness.run.cell import Cell

LETTERS = 12
_warn_once = lru_cache(None)(warn_on_stderr)


@contextmanager
def claimed(cell: Cell, folder: Path) -> Iterator[bool]:
    """A block in which no other command measures the cell for a folder of records; False where one does."""
    path = folder / f".{_claim(cell)}.claim"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except NotImplementedError:  # of a file system without locks
        _warn_once(f"{folder}: its file system has no locks: let one command at a time fill it")
        yield True
        return
    try:
        yield True
    finally:
        # One who waited for this very file may now measure beside one who makes another: it looks for a record first.
        path.unlink(missing_ok=True)
        lock.release()


def _claim(cell: Cell) -> str:
    """What a cell is claimed by: the first training of its weights, or itself."""
    return (key_of(cell.training[0].model_dump(mode="json")) if cell.training else cell.key)[:LETTERS]
