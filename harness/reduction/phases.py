"""What the products of a pass are counted as: the phase that runs now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

PHASES = ("main", "scoring", "matching", "predictor")
_phase: ContextVar[str] = ContextVar("phase", default="main")


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Attribute the products computed inside to one of PHASES in the cost accounting."""
    if name not in PHASES:
        raise ValueError(f"phase {name!r}: expected one of {', '.join(PHASES)}")
    if torch.compiler.is_compiling():  # nothing is counted there, and a compiled graph cannot set the variable
        yield
        return
    token = _phase.set(name)
    try:
        yield
    finally:
        _phase.reset(token)


def current_phase() -> str:
    """The phase that products computed now belong to."""
    return _phase.get()
