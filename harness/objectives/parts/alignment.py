"""Tokens that an image's tower has left, aligned one by one with those of a frozen teacher.

Source of the decoder and the distances: OpenGVLab/unmasked_teacher, single_modality/models/modeling_pretrain_umt.py and
engines/engine_for_pretraining_umt.py. A token that holds several patches is aligned with the mean of theirs, each
counting once, and has the mean of their positions. Shapes: B images, n0 patches, M of them that are seen, N tokens that
are left behind the prefix, D channels of the student, C of the teacher, K outputs of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.kit import distributed
from harness.reduction import BlockHooks, Guide, Stack, TokenReducer, Tokens, TokenState, sample_keys

Distance = Literal["cosine", "l2", "mse", "smooth_l1"]


def output_blocks(depth: int, count: int, interval: int) -> tuple[int, ...]:
    """The blocks whose outputs are aligned, shallowest first: the last, and each `interval` blocks before it."""
    return tuple(depth - 1 - at * interval for at in reversed(range(count)))


def outputs_of(
    stack: Stack, state: TokenState, reducer: BlockHooks, blocks: Sequence[int], guide: Guide | None = None
) -> list[Tokens]:
    """What leaves each of some blocks, ascending, through the stack's one last norm, of a state as it was opened."""
    state, found = reducer.opened(state, stack, guide), []
    for block in range(stack.shape.depth):
        state = stack.step(block, state, reducer, guide, None)
        if block in blocks:
            found.append(stack.close(state))
    return found


def opened(stack: Stack, reducer: BlockHooks, images: Tensor, seen_BM: Tensor | None = None) -> TokenState:
    """Images as they enter a tower, traced; with `seen_BM` these patches alone, in that order."""
    method = reducer if isinstance(reducer, TokenReducer) else None
    resized = method.resized(images) if method is not None and seen_BM is None else None
    state = (stack.open(images) if resized is None else stack.open_resized(resized)).traced()
    if seen_BM is not None:
        state = state.keep(seen_BM)
    return replace(state, sample_keys=sample_keys(images)) if method is not None and method.stochastic else state


@dataclass(frozen=True)
class Sources:
    """Which patches each token behind the prefix holds: `origin` (B, n0) as of Tokens, `count` (B, N) how many."""

    origin: Tensor
    count: Tensor

    @classmethod
    def of(cls, tokens: Tokens) -> Sources:
        assert tokens.origin is not None
        behind = tokens.states.shape[1] - tokens.prefix
        here = (tokens.origin >= 0).long()
        count = here.new_zeros(len(here), behind).scatter_add(1, tokens.origin.clamp(min=0), here)
        return cls(tokens.origin, count)

    def mean(self, values_BMC: Tensor) -> Tensor:
        """(B, N, C): the mean of what each token's patches have (B or 1, n0, C); zeros for a token without any."""
        here = (self.origin >= 0).to(values_BMC.dtype).unsqueeze(-1)
        values = values_BMC.expand(len(self.origin), -1, -1) * here
        wide = self.origin.clamp(min=0).unsqueeze(-1).expand_as(values)
        summed = values.new_zeros(*self.count.shape, values.shape[-1]).scatter_add(1, wide, values)
        return summed / self.count.clamp(min=1).unsqueeze(-1)


class TokenDecoder(nn.Module):
    """A student's tokens as the teacher's: positions added, a linear, a norm, unit length.

    The positions are sines and cosines of place / 10000^(2i / D), in turns. Not `positions`: none are added.
    """

    table: Tensor

    def __init__(self, width: int, out: int, patches: int, eps: float = 1e-6, positions: bool = True) -> None:
        super().__init__()
        self.head, self.norm = nn.Linear(width, out), nn.LayerNorm(out, eps=eps)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        table = sinusoids(patches, width) if positions else torch.zeros(1, patches, width, dtype=torch.float64)
        self.register_buffer("table", table.to(torch.get_default_dtype()))

    def forward(self, tokens: Tokens, sources: Sources) -> Tensor:
        """(B, N, C), prefix tokens first, which have no position."""
        placed = tokens.states + F.pad(sources.mean(self.table), (0, 0, tokens.prefix, 0))
        return F.normalize(self.norm(self.head(placed)), dim=-1)


def sinusoids(count: int, width: int) -> Tensor:
    """(1, count, width) float64: channel 2i has sin, 2i + 1 has cos of place / 10000^(2i / width)."""
    channel = torch.arange(width)
    rates = 10000.0 ** (-2 * (channel // 2).double() / width)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * rates
    return torch.where(channel % 2 == 0, angles.sin(), angles.cos()).unsqueeze(0)


def token_distances(student: Tensor, target: Tensor, kind: Distance) -> Tensor:
    """(…, N): of unit vectors (…, N, C), minus their cosine; `l2` 2 - 2 cos; `mse` that over C, the mean square;
    `smooth_l1` the mean over C of a difference's half square, or of its size less a half where that is above 1.
    """
    if kind == "mse":
        return (student - target).square().mean(dim=-1)
    if kind == "smooth_l1":
        return F.smooth_l1_loss(student, target, reduction="none").mean(dim=-1)
    cosine = (student * target).sum(dim=-1)
    return -cosine if kind == "cosine" else 2 - 2 * cosine


def alignment_loss(student_BNC: Tensor, target_BNC: Tensor, counted_BN: Tensor, kind: Distance) -> Tensor:
    """The mean distance over the tokens that count, of all processes."""
    distances = token_distances(student_BNC, target_BNC, kind)
    return distributed.global_mean((distances * counted_BN).sum(), counted_BN.sum())


def visible_by_importance(order_RN: Tensor, ratio: float, batch: int) -> Tensor:
    """(B, M): the patches that stay of `batch` images, ascending, from orders of importance (R, N).

    R is a multiple of B: a row of each of an image's frames, one after the other, whose patches are counted on. Of each
    row the first N - int(N * ratio) stay.
    """
    count = order_RN.shape[1]
    kept = order_RN[:, : count - int(count * ratio)].sort(dim=1).values.unflatten(0, (batch, -1))
    frames = torch.arange(kept.shape[1], device=kept.device) * count
    return (kept + frames[:, None]).flatten(1)


@torch.no_grad()
def damage(tokens: Tokens, dense_BMD: Tensor) -> Tensor:
    """(B, 2): how far a reduction turned tokens from what they hold: 1 - cosine, of patch tokens the mean, and of the
    first token.

    tokens: what is left, traced, of a tower with a class token. dense: what the same tower gives unreduced for the same
    images, (B, 1 + n0, D), both after its last norm. A token is held against the mean of its patches' dense tokens;
    those that hold none do not count.
    """
    sources, prefix = Sources.of(tokens), tokens.prefix
    whole = torch.cat([dense_BMD[:, :prefix], sources.mean(dense_BMD[:, prefix:])], dim=1)
    turned = 1 - F.cosine_similarity(tokens.states, whole, dim=-1)
    counted = (sources.count > 0) & tokens.standing[:, prefix:]
    patches = (turned[:, prefix:] * counted).sum(1) / counted.sum(1).clamp(min=1)
    return torch.stack([patches, turned[:, 0]], dim=1)
