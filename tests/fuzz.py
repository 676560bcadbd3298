"""What fuzzing tests share: fixed draws, a budget of processor time, JSON values to damage, and errors in one line."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from harness.kit.errors import HarnessError

SEED = 20240706


class Spent(KeyboardInterrupt):
    """The time is over: of this kind hypothesis lets exceptions through, and a draw that just stops it calls flaky."""


def fuzz(action: Callable[[st.DataObject], None], examples: int, seconds: float) -> None:
    """Call an action with the same draws on every run, until the processor time is spent."""
    end = time.process_time() + seconds

    @seed(SEED)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def drawn(data: st.DataObject) -> None:
        if time.process_time() > end:
            raise Spent
        action(data)

    with contextlib.suppress(Spent):
        drawn()


def in_one_line(action: Callable[[], Any]) -> Any:
    """What an action gives, or None where it ends with an error of one line; everything else it raises is a failure."""
    try:
        return action()
    except HarnessError as error:
        line = str(error)
    assert "\n" not in line
    assert line.strip()
    assert len(line) < 2000
    return None
