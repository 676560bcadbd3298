"""Seconds told apart: in the model, waiting for pixels, aside; with a clock of the test's own."""

from __future__ import annotations

import pytest
import torch

from harness import timing
from harness.timing import Stopwatch, Throughput


class Clock:
    """Stands still but for `pass_by`; `waited` counts some of that as waiting."""

    def __init__(self) -> None:
        self.now = self.waiting = 0.0

    def pass_by(self, seconds: float, waiting: float = 0.0) -> None:
        self.now += seconds + waiting
        self.waiting += waiting

    def waited(self) -> float:
        return self.waiting


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(timing, "perf_counter", lambda: found.now)
    return found


def test_the_model_s_seconds_are_without_waiting_and_without_what_is_aside(clock: Clock) -> None:
    watch = Stopwatch(torch.device("cpu"))
    for seconds, waiting in ((2.0, 0.5), (3.0, 0.0)):
        with watch.model(clock.waited):
            clock.pass_by(seconds, waiting)
        clock.pass_by(100)
    with watch.aside(), watch.model(clock.waited):
        clock.pass_by(7)
    with watch.model(clock.waited):
        clock.pass_by(1)
    assert watch.model_seconds == 6
    assert watch.aside_seconds == 7


def test_end_to_end_counts_reading_in_full_and_nothing_twice() -> None:
    """20 s of evaluation, of which 3 were waiting and 5 aside; the images took 4 s to read, hidden or not."""
    found = Throughput("questions", 36, 8.0, 3.0, 4.0, 5.0)
    assert found.end_to_end_seconds(20) == 16
