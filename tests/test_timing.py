"""Seconds told apart: in the model, waiting for pixels, aside; with a clock of the test's own."""

from __future__ import annotations

import pytest
import torch

from harness import timing
from harness.timing import Stopwatch, Throughput


class Clock:
    """Stands still but for `pass_by`."""

    def __init__(self) -> None:
        self.now = 0.0

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(timing, "perf_counter", lambda: found.now)
    return found


def test_the_model_s_seconds_are_without_waiting_and_without_what_is_aside(clock: Clock) -> None:
    watch = Stopwatch(torch.device("cpu"))

    def batch(seconds: float, waiting: float) -> None:
        with watch.model():
            with watch.pixels():
                clock.pass_by(waiting)
            clock.pass_by(seconds)

    batch(2, 0.5)
    clock.pass_by(100)
    batch(3, 0)
    with watch.aside():
        batch(7, 0.25)
    batch(1, 0.25)
    assert (watch.model_seconds, watch.pixel_seconds, watch.aside_seconds) == (6, 0.75, 7.25)


def test_end_to_end_counts_reading_in_full_and_nothing_twice() -> None:
    """20 s of evaluation, of which 3 were waiting and 5 aside; the images took 4 s to read, hidden or not."""
    found = Throughput("questions", 36, 8.0, 3.0, 4.0, 5.0)
    assert found.end_to_end_seconds(20) == 16
