"""How many tokens a method leaves in every block, found by running it on a tower that computes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.reduction.method import Evidence, Guide, TokenReducer, TowerShape, Trace, encode
from harness.reduction.tokens import TokenState


class ProbeTower:
    """A tower of the right shape that computes nothing: what `token_counts` runs a method on."""

    def __init__(self, shape: TowerShape, width: int) -> None:
        self.shape = replace(shape, width=width)

    def embed(self, images: Tensor) -> Tensor:
        return images.new_ones(images.shape[0], self.shape.prefix + self.shape.patches, self.shape.width)

    def attend(
        self, block: int, state: TokenState, wants: frozenset[str], proportional: bool = False
    ) -> tuple[TokenState, Evidence]:
        return state, self.observe(block, state, wants)

    def observe(self, block: int, state: TokenState, wants: frozenset[str]) -> Evidence:
        batch, tokens, _ = state.tokens.shape
        made = {
            "cls_attention": state.tokens.new_full((batch, state.patches), 1 / tokens),
            "keys": state.tokens.new_ones(batch, tokens, 1),
            "attention_received": state.tokens.new_full((batch, tokens), 1 / tokens),
        }
        return Evidence(**{name: made[name] for name in wants})

    def feed_forward(self, block: int, state: TokenState) -> TokenState:
        return state

    def finish(self, tokens: Tensor) -> Tensor:
        return tokens


@torch.no_grad()
def token_counts(reducer: TokenReducer[Any]) -> Trace:
    """Tokens entering each attention and MLP, found by running the method itself on a tower that computes nothing."""
    shape = reducer.shape
    # A method with parameters computes with them: the probe then has its width, device and dtype.
    parameter = next(reducer.parameters(), None)
    width = 1 if parameter is None else shape.width
    images = torch.zeros(1, 3, 1, 1) if parameter is None else parameter.detach().new_zeros(1, 3, 1, 1)
    guide = Guide(images.new_zeros(1, width)) if reducer.needs_text else None
    trace = Trace()
    encode(ProbeTower(shape, width), reducer, images, guide, trace)
    return trace
