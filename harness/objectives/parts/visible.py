"""A part of an image's patches through a tower, reduced or not: what leaves it, and which patches its tokens hold.

Masked objectives show the student some patches only. A method may reduce those further: it then keeps the same share of
the patches that are seen as it keeps of all of them, and `Tokens.origin` says where each patch of the image lives (-1:
it was not seen, or was pruned). Shapes: B images, n0 patches, K of them seen, N tokens that are left, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.kit.draws import uniform
from harness.kit.errors import HarnessError
from harness.objectives.parts.objective import Moment
from harness.reduction import PLAIN, BlockHooks, Guide, Stack, TokenReducer, Tokens, sample_keys
from harness.reduction.budget import realised_ratio
from harness.reduction.schedule import solve

# Purposes of draws, beside those of parts/objective.py and apart from them.
PATCH_ORDER, WORD_TOKENS, WORD_IMAGES, WORD_VIEW = range(32, 36)


@dataclass(frozen=True)
class Visible:
    """What left the tower, and what left the block that was asked for (before any norm), or None."""

    tokens: Tokens
    early: Tokens | None


def encode_visible(
    stack: Stack,
    reducer: BlockHooks,
    images: Tensor,
    seen_BK: Tensor,
    guide: Guide | None = None,
    early: int | None = None,
) -> Visible:
    """Run the patches seen_BK of images through a tower, in that order, with their own positions.

    `reducer`: for K patches, see `for_visible`. `early`: the block whose output is kept beside. `origin` of the tokens
    speaks of all n0 patches.
    """
    state = stack.open(images).traced().keep(seen_BK)
    if isinstance(reducer, TokenReducer) and reducer.stochastic:
        state = replace(state, sample_keys=sample_keys(images))
    state, kept = reducer.opened(state, stack, guide), None
    for block in range(stack.shape.depth):
        state = stack.step(block, state, reducer, guide, None)
        if block == early:
            kept = state.left(state.tokens)
    return Visible(stack.close(state), kept)


def visible_reducer(reducer: TokenReducer[Any], count: int, objective: str, config: Any) -> BlockHooks:
    """`for_visible` where the objective's config has `reduce_visible` on; else nothing is reduced there.

    HarnessError where a method would then have nothing to reduce, since there is no contrast either.
    """
    if config.reduce_visible:
        return for_visible(reducer, count, objective)
    if not config.contrast_weight and _reduces(reducer):
        raise HarnessError(
            f"objective {objective}: with reduce_visible off and contrast_weight 0 the method has nothing to reduce; "
            "set one of them"
        )
    return PLAIN


def _reduces(reducer: TokenReducer[Any]) -> bool:
    return "vision" in reducer.stacks and (reducer.learns or reducer.adaptive or realised_ratio(reducer) < 1)


def for_visible(reducer: TokenReducer[Any], count: int, objective: str) -> BlockHooks:
    """A method for a tower that sees `count` patches, at the token ratio that it has where it sees all.

    The nearest ratio that it reaches is taken. HarnessError for methods that learn, adapt to the image, take another
    image or work on the grid of all patches.
    """
    if "vision" not in reducer.stacks:
        return PLAIN
    if reducer.learns or reducer.adaptive or type(reducer).resized is not TokenReducer.resized:
        raise HarnessError(
            f"objective {objective}: {type(reducer).__name__} cannot be fitted to the {count} patches that are seen; "
            "take a method with fixed counts, no parameters and the tower's own images (mae and moca beside contrast: "
            "or set reduce_visible=false)"
        )
    ratio, shape, config = realised_ratio(reducer), replace(reducer.shape, patches=count, grid=None), reducer.config
    if ratio == 1:
        return PLAIN
    if "attention_tokens" in type(config).model_fields:  # counts of another method
        share = count / reducer.shape.patches
        fitted = {
            field: tuple(max(1, round(share * tokens)) for tokens in getattr(config, field))
            for field in ("attention_tokens", "mlp_tokens")
        }
        return type(reducer)(config.model_copy(update=fitted), shape)

    def at(gamma: float) -> TokenReducer[Any]:
        return type(reducer)(config.bent(gamma), shape)

    step = 1 / (shape.depth * count)
    return at(solve(lambda gamma: realised_ratio(at(gamma)), ratio, step=step, tolerance=1.0))


def patch_order(sample_ids_B: Tensor, count: int, moment: Moment, views: int = 1) -> Tensor:
    """(views * B, count) numbers whose order says which patches are seen, view after view; each epoch draws anew."""
    drawn = uniform(sample_ids_B, views * count, moment.seed, PATCH_ORDER, moment.epoch)
    return torch.cat(drawn.chunk(views, dim=1))


def held(tokens: Tokens) -> Tensor:
    """(B, n0) bool, which of the image's patches live in a token."""
    assert tokens.origin is not None
    return tokens.origin >= 0


def mean_of_sources(tokens: Tokens, targets_BLK: Tensor) -> Tensor:
    """Targets (B, n0, K) of patches, where each that lives in a merged token has the mean over all that live there.

    So a merged token's target is the mean of its patches', each of which counts once; others keep their own.
    """
    assert tokens.origin is not None
    here = held(tokens)
    places = tokens.origin.clamp(min=0)
    count = tokens.states.shape[1] - tokens.prefix
    weights = here.to(targets_BLK.dtype)
    wide = places.unsqueeze(-1).expand_as(targets_BLK)
    summed = targets_BLK.new_zeros(len(places), count, targets_BLK.shape[-1])
    summed = summed.scatter_add(1, wide, targets_BLK * weights.unsqueeze(-1))
    numbers = weights.new_zeros(len(places), count).scatter_add(1, places, weights)
    means = summed.gather(1, wide) / numbers.gather(1, places).clamp(min=1).unsqueeze(-1)
    return torch.where(here.unsqueeze(-1), means, targets_BLK)
