"""Towers whose attention depends on where tokens stand: rotary embeddings, and biases by relative position.

A state's positions say it: those of the inputs, prefix included, in a merged token its destination's, -1 in a token
that has no single place (pooled). Such a token is not rotated, and its bias is the mean over all places. Shapes: B
images, N tokens, M queries, H heads, d channels of a head, T inputs (prefix and patches).
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.hosts.parts.towers.tower import PreNormTower
from harness.kit.errors import HarnessError
from harness.reduction import TokenState


class PlacedTower(PreNormTower):
    """Tokens know their places from the moment they enter block 0."""

    def open(self, inputs: Tensor) -> TokenState:
        return in_place(super().open(inputs))

    def open_resized(self, inputs: Tensor) -> TokenState:
        return in_place(super().open_resized(inputs))

    def rows(self, state: TokenState, inputs: int) -> Tensor:
        """(B, N), the place of each token among so many inputs; HarnessError for a state that does not say it."""
        if state.positions is not None:
            return state.positions
        if state.tokens.shape[1] != inputs:
            raise HarnessError(f"{self.shape.name}: tokens of unknown places; open the tower, or give positions")
        positions = in_place(state).positions
        assert positions is not None
        return positions


class RotaryTower(PlacedTower):
    """Queries and keys of the patches are rotated by their places; prefix tokens are not.

    `half`: channel i turns with channel i + d / 2, not with its neighbour. `angles`: what `open` found for the images'
    grid, cosines and sines, each (n0, d), or by block and head (depth, H, n0, d).
    """

    half: bool
    angles: tuple[Tensor, Tensor]

    def placed(self, block: int, q: Tensor, k: Tensor, state: TokenState) -> tuple[Tensor, Tensor]:
        cosines, sines = (part[block] if part.dim() == 4 else part for part in self.angles)
        rows = self.rows(state, self.shape.prefix + cosines.shape[-2])
        turns = [of_places(part, rows, self.shape.prefix, still) for part, still in ((cosines, 1.0), (sines, 0.0))]
        first = [part[..., : q.shape[2], :] for part in turns]
        return self._turned(q, *first), self._turned(k, *turns)

    def _turned(self, values: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        if self.half:
            front, back = values.chunk(2, dim=-1)
            turned = torch.cat([-back, front], dim=-1)
        else:
            turned = torch.stack([-values[..., 1::2], values[..., ::2]], dim=-1).flatten(-2)
        return (values * cosines + turned * sines).to(values.dtype)


class RelativeTower(PlacedTower):
    """Attention logits get a bias by head and by the places of query and key."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.shape = replace(self.shape, pairwise=True)

    @abstractmethod
    def pair_bias(self, block: int) -> Tensor | None:
        """(H, T, T), of every pair of inputs; None where a block has none."""

    def block_bias(self, block: int, state: TokenState, proportional: bool) -> Tensor | None:
        own, bias = self.pair_bias(block), self.bias(state, proportional)
        if own is None:
            return bias
        rows = self.rows(state, own.shape[-1])
        wide = torch.cat([own, own.mean(-1, keepdim=True)], dim=-1)
        wide = torch.cat([wide, wide.mean(-2, keepdim=True)], dim=-2)
        pairs = wide[:, rows[:, :, None], rows[:, None, :]].transpose(0, 1)
        if bias is None:
            return pairs
        return pairs.masked_fill(~bias, -float("inf")) if bias.dtype == torch.bool else pairs + bias


def in_place(state: TokenState) -> TokenState:
    """The same state where every token stands in its own place."""
    places = torch.arange(state.tokens.shape[1], device=state.tokens.device)
    return replace(state, positions=places.repeat(len(state.tokens), 1))


def of_places(table: Tensor, rows: Tensor, prefix: int, still: float) -> Tensor:
    """Rows (B, N) of a table (n0, d) or (H, n0, d) of the patches: (B, 1 or H, N, d); `still` of prefix and of -1."""
    constant = table.new_full((*table.shape[:-2], prefix, table.shape[-1]), still)
    wide = torch.cat([constant, table, table.new_full((*table.shape[:-2], 1, table.shape[-1]), still)], dim=-2)
    if wide.dim() == 2:
        return wide[rows].unsqueeze(1)
    return wide[:, rows].transpose(0, 1)
