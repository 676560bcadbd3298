"""What one pass through a method is watched for: tokens that nobody answers for, and what is no number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness.check.drawn import Fault
from harness.reduction import TokenReducer, TokenState

HOOKS = {"before_block": 1, "between": 1, "after_block": 1}


@contextmanager
def hooks_watched(reducer: TokenReducer[Any]) -> Iterator[None]:
    """Fault for a hook that changes the prefix, or leaves tokens that stand for nothing that was there."""

    def watched(hook: Callable[..., TokenState], place: int) -> Callable[..., TokenState]:
        def inner(*given: Any) -> TokenState:
            before, left = given[place], hook(*given)
            where = f"{hook.__name__} of block {given[0]}"
            _same_prefix(before, left, where)
            _answered_for(left, where)
            return left

        return inner

    for hook, place in HOOKS.items():
        reducer.__dict__[hook] = watched(getattr(reducer, hook), place)
    try:
        yield
    finally:
        for hook in HOOKS:
            del reducer.__dict__[hook]


@contextmanager
def merges_watched() -> Iterator[None]:
    """Fault for a merge into a token that does not remain, for a merged token that does, and for sizes that are lost
    between two merges: each would be a mean of wrong weights.
    """
    merge, merges = TokenState.merge, 0

    def watched(
        state: TokenState, source: Tensor, into: Tensor, rest: Tensor, weights: Tensor | None = None
    ) -> TokenState:
        nonlocal merges
        if merges and state.sizes is None and weights is None:
            raise Fault(
                "merges by the tokens' sizes, which are gone since the merge before: keep them, or give weights"
            )
        merges += 1
        for what, wanted, names in (("merges into", True, into), ("keeps, though it merged it,", False, source)):
            remains = (names[..., None] == rest[:, None]).any(dim=-1)
            if bool((remains != wanted).any()):
                row = (remains != wanted).nonzero()[0]
                reason = "which is not among those that remain (`rest`)" if wanted else "among `rest`"
                raise Fault(f"{what} token {int(names[row[0], row[1]])}, {reason}: indices count the patch tokens")
        return merge(state, source, into, rest, weights)

    TokenState.merge = watched  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        TokenState.merge = merge  # type: ignore[method-assign]


def _same_prefix(before: TokenState, left: TokenState, where: str) -> None:
    if not torch.equal(before.tokens[:, : before.prefix], left.tokens[:, : left.prefix]):
        raise Fault(f"{where} changes the class token or those beside it")


def _answered_for(left: TokenState, where: str) -> None:
    """Sizes, mask and origin speak of the tokens that are there, and none of these is there twice."""
    count = left.tokens.shape[1]
    for what, part in (("sizes", left.sizes), ("mask", left.mask), ("positions", left.positions)):
        if part is not None and part.shape[1] != count:
            raise Fault(
                f"{where} leaves {count} tokens, and {what} of {part.shape[1]}: use keep, merge, pool or append"
            )
    if left.origin is None:
        return
    last = int(left.origin.max()) + 1
    if last > left.patches:
        raise Fault(f"{where} leaves {left.patches} tokens of patches where {last} were: use keep, merge or pool")
    living = torch.zeros_like(left.origin[:, :1]).repeat(1, left.patches)
    living = living.scatter_add(1, left.origin.clamp(min=0), (left.origin >= 0).long())
    for tokens, here in zip(left.patch_tokens, left.patch_standing & (living == 0)):
        # A method may make tokens of its own, in which no patch lives; a copy of another token is none of these.
        copies = (tokens[here][:, None] == tokens[None]).all(dim=-1).sum(dim=1) > 1
        if bool(copies.any()):
            raise Fault(f"{where} keeps a token more than once ({int(copies.sum())} copies)")


def all_finite(states: Tensor) -> None:
    """Fault for tokens that leave the tower as NaN or infinite."""
    odd = int((~states.isfinite()).sum())
    if odd:
        raise Fault(f"{odd} of {states.numel()} numbers that leave the tower are NaN or infinite")
