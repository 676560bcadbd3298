"""Facts about progress where stderr is a log: a line per cell and a line a minute of long work, with the time left."""

from __future__ import annotations

import pytest

from harness.kit import progress
from harness.kit.progress import Pace, Progress, time_left


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    there = Clock()
    monkeypatch.setattr(progress, "time", there)
    return there


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "about 1 s left"),
        (89.4, "about 89 s left"),
        (600.0, "about 10 min left"),
        (9000.0, "about 2.5 h left"),
    ],
)
def test_time_left_is_told_in_the_unit_that_fits(seconds: float, words: str) -> None:
    assert time_left(seconds) == words


def test_a_long_bar_is_a_line_a_minute_in_a_log(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress().bar("images read", 10) as bar:
        for _ in range(10):
            clock.now += 25
            bar.advance()
    assert capsys.readouterr().err.splitlines() == [
        "    images read 3/10, about 3 min left",
        "    images read 6/10, about 2 min left",
        "    images read 9/10, about 25 s left",
    ]


def test_a_short_bar_says_nothing_in_a_log(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress().bar("images read", 3) as bar:
        for _ in range(3):
            clock.now += 20
            bar.advance()
    assert capsys.readouterr().err == ""


def test_quiet_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Progress(quiet=True)
    quiet.say("[1/2] dense")
    with quiet.bar("images read", 3) as bar:
        clock.now += 200
        bar.advance()
    assert capsys.readouterr().err == ""


def test_what_is_said_goes_into_a_log_too(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().say("[1/2] dense")
    assert capsys.readouterr() == ("", "[1/2] dense\n")


def test_the_pace_is_of_the_same_task_where_one_is_done_and_else_of_any(clock: Clock) -> None:
    pace = Pace(["vqa", "vqa", "vqa", "captioning", "captioning"])
    assert pace.time_left() == ""
    with pace.cell("vqa"):
        clock.now += 10
    assert pace.time_left() == ", about 40 s left"  # four cells of ten seconds
    with pace.cell("captioning"):
        clock.now += 30
    assert pace.time_left() == ", about 50 s left"  # two of ten and one of thirty
    with pace.cell("vqa"):
        clock.now += 20
    assert pace.time_left() == ", about 45 s left"  # one of fifteen and one of thirty


def test_a_cell_that_was_stopped_is_still_left(clock: Clock) -> None:
    pace = Pace(["vqa", "vqa"])
    with pytest.raises(KeyboardInterrupt), pace.cell("vqa"):
        raise KeyboardInterrupt
    assert pace.time_left() == ""
