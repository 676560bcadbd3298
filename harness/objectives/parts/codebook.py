"""An online codebook of visual words: patch tokens of a teacher, assignments to them, and weights made of them.

Source: Gidaris et al. 2024 (MOCA), arXiv 2307.09361; valeoai/MOCA, models_moca.py. Shapes: B images, L patches, D
channels of the teacher, K words, E channels of a feature that predicts them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.kit import distributed

EPS = 1e-5
SPREAD_DECAY = 0.99
FIRST_SPREAD = 0.5


class Codebook(nn.Module):
    """`words` (K, D), unit length, the oldest overwritten first, and how far assignments spread.

    `spread` is a running mean of (largest - mean) cosine; assignments use its value at the last renewal, `spread_used`.
    """

    words: Tensor
    pointer: Tensor
    spread: Tensor
    spread_used: Tensor

    def __init__(self, count: int, width: int, sharpness: float) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.register_buffer("words", unit(torch.randn(count, width).clamp(min=0)))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("spread", torch.full((1,), FIRST_SPREAD))
        self.register_buffer("spread_used", torch.full((1,), FIRST_SPREAD))

    @torch.no_grad()
    def assign(self, patches_BLD: Tensor) -> Tensor:
        """Probabilities (B, L, K) of words: softmax of (sharpness / spread) * cosine; the batch's spread is noted."""
        cosines = (unit(patches_BLD) @ self.words.T).to(self.words.dtype)
        own = (cosines.amax(dim=-1) - cosines.mean(dim=-1)).mean().abs()
        self.spread.mul_(SPREAD_DECAY).add_(distributed.mean_over_ranks(own), alpha=1 - SPREAD_DECAY)
        return (self.sharpness / self.spread_used * cosines).softmax(dim=-1)

    @torch.no_grad()
    def renew(self, tokens_ND: Tensor) -> None:
        """Overwrite the oldest words by N tokens of which K is a multiple, and take up the spread seen since."""
        places = (self.pointer + torch.arange(len(tokens_ND), device=self.pointer.device)) % len(self.words)
        self.words.index_copy_(0, places, unit(tokens_ND).to(self.words.dtype))
        self.pointer.copy_((self.pointer + len(tokens_ND)) % len(self.words))
        self.spread_used.copy_(self.spread)


class WordWeights(nn.Module):
    """A small network of `hidden` channels that makes of each word the unit vector which predicts it."""

    def __init__(self, width: int, out: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(width, hidden, bias=False)
        self.norm = nn.BatchNorm1d(hidden)
        self.last = nn.Linear(hidden, out)
        self.skip = nn.Identity() if width == out else nn.Linear(width, out)

    def forward(self, words_KD: Tensor) -> Tensor:
        """(K, E)."""
        words = unit(words_KD)
        return unit(self.last(F.relu(self.norm(self.first(words)))) + self.skip(words))


def inner_places(grid: tuple[int, int], border: int) -> Tensor:
    """Places (I,) of the patches that are `border` away from every side, row by row."""
    rows, columns = grid
    return torch.arange(rows * columns).view(rows, columns)[border : rows - border, border : columns - border].flatten()


def bag_of_words(codes_BLK: Tensor, inner_I: Tensor) -> Tensor:
    """(B, K), the mean assignment of the inner patches, summing to one."""
    return F.normalize(codes_BLK[:, inner_I].mean(dim=1), p=1, dim=-1, eps=EPS)


def unit(vectors: Tensor) -> Tensor:
    """Vectors (…, D) of length one."""
    return F.normalize(vectors, dim=-1, eps=EPS)
