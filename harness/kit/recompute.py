"""Gradient checkpointing: inside `recomputing`, blocks keep their inputs only and are run again in backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

R = TypeVar("R")
_recomputing: ContextVar[bool] = ContextVar("recomputing", default=False)


@contextmanager
def recomputing(wanted: bool = True) -> Iterator[None]:
    """Recompute the blocks that run inside."""
    token = _recomputing.set(wanted)
    try:
        yield
    finally:
        _recomputing.reset(token)


def wanted() -> bool:
    """Whether blocks are recomputed now."""
    return _recomputing.get()


def block(run: Callable[..., R], *args: Any) -> R:
    """run(*args), whose inner tensors are dropped and computed again in backward where `recomputing` says so.

    The second run sees the context (attention path, phase) of the first.
    """
    if not (_recomputing.get() and torch.is_grad_enabled()):
        return run(*args)
    context = copy_context()

    def again(*inner: Any) -> R:
        return context.copy().run(run, *inner)

    result: R = checkpoint(again, *args, use_reentrant=False)
    return result
