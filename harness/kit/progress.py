"""Progress on stderr: a bar with an ETA for what takes more than two seconds; in a log, a line now and then."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from statistics import fmean
from typing import Any

from harness.kit.shown import on_one_line

DELAY_S = 2.0
# Between the lines of one bar where stderr is no terminal.
LINE_S = 60.0


class Progress:
    """Bars of one command, lines where stderr is no terminal; `quiet` makes every call a no-op."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    @contextmanager
    def bar(self, label: str, total: int, *, timed: bool = False) -> Iterator[Bar]:
        """A bar over `total` steps, drawn once the work has taken two seconds.

        `timed`: the steps are being timed, so nothing is drawn while one runs, only between them.
        """
        bar = Bar(label, total, not self.quiet, timed)
        try:
            yield bar
        finally:
            bar.close()

    def say(self, text: str) -> None:
        """One line on stderr, unless quiet."""
        if not self.quiet:
            print(on_one_line(text), file=sys.stderr, flush=True)


class Bar:
    """One running bar; `advance(n)` after each piece of work."""

    def __init__(self, label: str, total: int, shown: bool, timed: bool = False) -> None:
        self.label, self.total, self.shown, self.timed = label, total, shown, timed
        self.terminal = sys.stderr.isatty()
        self.started = self.reported = time.monotonic()
        self.done = 0
        self._rich: Any = None
        self._task: Any = None

    def advance(self, steps: int = 1) -> None:
        """Count finished steps and redraw."""
        self.done += steps
        if not self.shown:
            return
        now = time.monotonic()
        if not self.terminal:
            if now - self.reported > LINE_S and self.done < self.total:
                left = (now - self.started) * (self.total - self.done) / self.done
                print(f"    {self.label} {self.done}/{self.total}, {time_left(left)}", file=sys.stderr, flush=True)
                self.reported = now
            return
        if self._rich is None and now - self.started > DELAY_S:
            self._open()
        if self._rich is not None:
            self._rich.update(self._task, completed=self.done, refresh=self.timed)

    def close(self) -> None:
        """Remove the bar."""
        if self._rich is not None:
            self._rich.stop()

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        self._rich = RichProgress(*columns, console=console, transient=True, auto_refresh=not self.timed)
        self._task = self._rich.add_task(self.label, total=self.total, completed=self.done)
        self._rich.start()


class Pace:
    """How long the cells that are left will take, by what those of their task took so far, or else those of any.

    `tasks`: of each cell that is to be measured.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._left = Counter(tasks)
        self._seconds: dict[str, list[float]] = {}

    @contextmanager
    def cell(self, task: str) -> Iterator[None]:
        """The while in which one cell of a task is measured."""
        started = time.monotonic()
        yield
        self._left[task] -= 1
        self._seconds.setdefault(task, []).append(time.monotonic() - started)

    def drop(self, task: str) -> None:
        """One cell of a task needs not be measured."""
        self._left[task] -= 1

    def time_left(self) -> str:
        """What to add to a line; nothing before the first cell is done."""
        if not self._seconds:
            return ""
        any_task = fmean(chain.from_iterable(self._seconds.values()))
        means = {task: fmean(seconds) for task, seconds in self._seconds.items()}
        return ", " + time_left(sum(count * means.get(task, any_task) for task, count in self._left.items()))


def time_left(seconds: float) -> str:
    """An estimate in words: 'about 40 s left', 'about 12 min left', 'about 3.5 h left'."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 5400 else f"about {seconds / 3600:.1f} h left"


SILENT = Progress(quiet=True)
