"""The loop that drives a stack with a method, and which method works in the stacks that hosts drive inside.

Shapes: B inputs, N tokens (prefix first), D channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.kit.errors import HarnessError
from harness.reduction.guide import Guide
from harness.reduction.method import TokenReducer
from harness.reduction.stack import PLAIN, BlockHooks, Stack, Trace
from harness.reduction.state import TokenState
from harness.reduction.tokens import Tokens


def drive(
    stack: Stack,
    state: TokenState,
    hooks: BlockHooks,
    guide: Guide | None = None,
    trace: Trace | None = None,
) -> Tokens:
    """Run an opened state through a stack with a method: what leaves the stack."""
    if trace is not None and trace.origins_wanted:
        state = state.traced()
    state = hooks.opened(state, stack, guide)
    if trace is not None and trace.states is not None:
        trace.states.append(state)
    for block in range(stack.shape.depth):
        state = stack.step(block, state, hooks, guide, trace)
    if trace is not None:
        trace.sizes = state.sizes
    return stack.close(state)


def encode(
    stack: Stack, reducer: TokenReducer[Any], images: Tensor, guide: Guide | None = None, trace: Trace | None = None
) -> Tokens:
    """Run images (B, C, H, W) through a tower, reduced by a method if it is one that works there: its last tokens."""
    if stack.shape.kind not in reducer.stacks:
        return drive(stack, stack.open(images), PLAIN, trace=trace)
    resized = reducer.resized(images)
    state = stack.open(images) if resized is None else stack.open_resized(resized)
    if resized is None and state.patches != reducer.shape.patches:
        raise HarnessError(
            f"{type(reducer).__name__} was made for {reducer.shape.patches} patches and got {state.patches}: make it "
            "for the tower at this image size"
        )
    if reducer.stochastic:
        state = replace(state, sample_keys=sample_keys(images))
    return drive(stack, state, reducer, guide, trace)


def sample_keys(images: Tensor) -> Tensor:
    """One int64 per image from its bits alone, so that random methods do not depend on batch or order."""
    bits = images.contiguous().view(
        torch.int32 if images.element_size() == 4 else torch.int64 if images.element_size() == 8 else torch.int16
    )
    return bits.flatten(1).long().sum(1)


_working: ContextVar[TokenReducer[Any] | None] = ContextVar("working", default=None)


@contextmanager
def reducing(reducer: TokenReducer[Any] | None) -> Iterator[None]:
    """Let a method work in the text, fusion and decoder stacks that hosts drive inside, as far as it says it does."""
    token = _working.set(reducer)
    try:
        yield
    finally:
        _working.reset(token)


def working_in(kind: str) -> TokenReducer[Any] | None:
    """The method that works in stacks of a kind now, or None."""
    reducer = _working.get()
    return reducer if reducer is not None and kind in reducer.stacks else None
