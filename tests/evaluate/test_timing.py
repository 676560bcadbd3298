"""Seconds told apart: in the model, waiting for pixels, aside; with a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from harness.evaluate import timing
from harness.evaluate.timing import Pass, Stopwatch, Throughput, settled, speeds


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


def one_pass(seconds: float, model: float = 1.0) -> Pass:
    """20 s of evaluation: of 36 questions, 3 s waiting and 5 aside; reading took 4 s, hidden or not."""
    return Pass(Throughput("questions", 36, model, pixel_seconds=3.0, reading_seconds=4.0, aside_seconds=5.0), seconds)


def test_end_to_end_counts_reading_in_full_and_nothing_twice() -> None:
    assert one_pass(20).end_to_end_seconds == 16


@pytest.mark.parametrize(
    ("seconds", "more"), [(30, 0), (15.1, 0), (14.9, 1), (3.1, 1), (2.9, 1), (1.4, 2), (0.7, 4), (0.59, 5), (1e-6, 5)]
)
def test_a_pass_is_made_again_as_often_as_there_is_time_and_then_left_out(seconds: float, more: int) -> None:
    first, others = one_pass(seconds), [one_pass(number) for number in range(1, more + 1)]
    coming = iter(others)
    assert settled(first, lambda: next(coming)) == (others or [first], [])
    assert next(coming, None) is None


def test_dense_takes_turns_with_what_is_measured_again() -> None:
    order: list[str] = []

    def noted(name: str) -> Callable[[], Pass]:
        def made() -> Pass:
            order.append(name)
            return one_pass(16 + len(order))

        return made

    passes, beside = settled(one_pass(1.4), noted("method"), noted("dense"))
    assert order == ["dense", "method"] * 2
    assert ([one.seconds for one in beside], [one.seconds for one in passes]) == ([17, 19], [18, 20])
    assert settled(one_pass(16), noted("method"), noted("dense"))[1] == []


def test_speeds_are_of_the_median_of_each_kind_of_seconds() -> None:
    passes = [one_pass(22, model=4), one_pass(16, model=3), one_pass(14, model=9)]
    found = {
        "unit": "questions",
        "samples": 36,
        "passes": 3,
        "end_to_end_seconds": 12,  # 16 - 5 aside - 3 waited + 4 of reading
        "model_seconds": 4,
        "end_to_end_per_second": 3,
        "model_per_second": 9,
        "dense": None,
    }
    assert speeds(passes) == found
    dense = {"end_to_end_per_second": 2, "model_per_second": 6}
    assert speeds(passes, [one_pass(22, model=6)]) == found | {"dense": dense}


def test_several_passes_beside_dense_have_the_extremes_of_their_quotients() -> None:
    """End to end 18, 12 and 10 s beside dense's 18, 24 and 20; in the model 4, 3 and 9 s beside 6."""
    passes = [one_pass(22, model=4), one_pass(16, model=3), one_pass(14, model=9)]
    beside = [one_pass(22, model=6), one_pass(28, model=6), one_pass(24, model=6)]
    dense = speeds(passes, beside)["dense"]
    assert dense is not None
    assert (dense["end_to_end_ratio"], dense["model_ratio"]) == ([1.0, 2.0], [0.6667, 2.0])
