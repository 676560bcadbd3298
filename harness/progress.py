"""Progress on stderr: a bar with an ETA for what takes more than two seconds, silence when stderr is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DELAY_S = 2.0


class Progress:
    """Bars of one command; `quiet` or a stderr that is no terminal makes every call a no-op."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.shown = not quiet and sys.stderr.isatty()

    @contextmanager
    def bar(self, label: str, total: int, *, timed: bool = False) -> Iterator[Bar]:
        """A bar over `total` steps, drawn once the work has taken two seconds.

        `timed`: the steps are being timed, so nothing is drawn while one runs, only between them.
        """
        bar = Bar(label, total, self.shown, timed)
        try:
            yield bar
        finally:
            bar.close()

    def say(self, text: str) -> None:
        """One line on stderr, unless quiet."""
        if self.shown:
            sys.stderr.write(text + "\n")


class Bar:
    """One running bar; `advance(n)` after each piece of work."""

    def __init__(self, label: str, total: int, shown: bool, timed: bool = False) -> None:
        self.label, self.total, self.shown, self.timed = label, total, shown, timed
        self.started = time.monotonic()
        self.done = 0
        self._rich: Any = None
        self._task: Any = None

    def advance(self, steps: int = 1) -> None:
        """Count finished steps and redraw."""
        self.done += steps
        if not self.shown:
            return
        if self._rich is None and time.monotonic() - self.started > DELAY_S:
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


SILENT = Progress(quiet=True)
