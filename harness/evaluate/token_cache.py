"""The tower's tokens of images, kept while there is room for them.

Shapes: I images, N tokens, D channels, B images asked for.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from harness.reduction import Tokens, join

# At 384 px in float32, ViT-B/16's tokens of 2,400 images.
TOKENS_BUDGET_BYTES = 4 * 2**30
_ABSENT = -1


class ImageTokens:
    """Tokens by image. The first to come are kept, up to `budget` bytes; beyond, only those of the last two batches.

    An index (B,) of images is on the CPU, tokens are where they were made. Where images keep different numbers of
    tokens (adaptive methods), all are padded to `widest`.
    """

    def __init__(self, count: int, budget: int = TOKENS_BUDGET_BYTES, widest: int | None = None) -> None:
        self.budget, self.widest = budget, widest
        self._kept: Tokens | None = None
        self._latest: Tokens | None = None
        self._used = 0
        self._last = torch.empty(0, dtype=torch.int64)
        self._kept_row, self._latest_row = (torch.full((count,), _ABSENT) for _ in range(2))

    def missing(self, index_B: Tensor) -> Tensor:
        """Those of the images that are not there, each once, in the order of asking."""
        return in_first_order(index_B[(self._kept_row[index_B] == _ABSENT) & (self._latest_row[index_B] == _ABSENT)])

    def add(self, index_B: Tensor, tokens: Tokens, asked: Tensor, *, keep: bool = True) -> None:
        """Put in the tokens of images that were missing; `asked`: images that must stay even where there is no room.

        `keep` false: they are not wanted again later, and take up no room.
        """
        tokens = replace(tokens, notes={}, origin=None)
        if self.widest is not None:
            tokens = padded_to(tokens, self.widest)
        if self._kept is None:
            size = sum(part[0].numel() * part.element_size() for part in _parts(tokens).values())
            self._kept = _empty(tokens, min(len(self._kept_row), self.budget // size))
        free = min(len(index_B), len(self._kept) - self._used) if keep else 0
        kept = _parts(self._kept)
        for name, part in _parts(tokens).items():
            kept[name][self._used : self._used + free] = part[:free]
        self._kept_row[index_B[:free]] = torch.arange(self._used, self._used + free)
        self._used += free
        stay = in_first_order(torch.cat([self._last, asked[self._latest_row[asked] != _ABSENT]]))
        beyond = tokens.rows(torch.arange(free, len(index_B), device=tokens.states.device))
        if self._latest is not None and len(stay):
            rows = self._latest_row[stay].to(beyond.states.device)
            beyond = join([self._latest.rows(rows), beyond])
        self._latest_row.fill_(_ABSENT)
        self._latest_row[torch.cat([stay, index_B[free:]])] = torch.arange(len(beyond))
        self._latest, self._last = beyond, index_B[free:]

    def take(self, index_B: Tensor) -> Tokens:
        """Tokens of images that are there."""
        assert self._kept is not None
        assert self._latest is not None
        rows_B = self._kept_row[index_B]
        absent_B = rows_B == _ABSENT
        device = self._kept.states.device
        if not absent_B.any():
            return self._kept.rows(rows_B.to(device))
        latest_row = self._latest_row[index_B]
        if absent_B.all():
            return self._latest.rows(latest_row.to(device))
        found = _empty(self._kept, len(index_B))
        for source, rows, here_B in ((self._kept, rows_B, ~absent_B), (self._latest, latest_row, absent_B)):
            taken = _parts(source.rows(rows[here_B].to(device)))
            for name, part in _parts(found).items():
                part[here_B.to(device)] = taken[name]
        return found


def padded_to(tokens: Tokens, width: int) -> Tokens:
    """The same tokens with as many behind them, which do not stand, as make `width`; with sizes, even if all are one.

    A method that merges as many tokens as it likes may merge none in one batch, and some in the next.
    """
    wide = tokens.states.new_zeros(1, width, tokens.states.shape[2])
    wanted = torch.arange(len(tokens), device=tokens.states.device)
    joined = join([tokens, Tokens(wide, sizes=wide[..., 0])]).rows(wanted)
    return replace(joined, mask=joined.standing)


def _parts(tokens: Tokens) -> dict[str, Tensor]:
    """What is there of states, mask and sizes."""
    parts = {"states": tokens.states, "mask": tokens.mask, "sizes": tokens.sizes}
    return {name: part for name, part in parts.items() if part is not None}


def _empty(like: Tokens, rows: int) -> Tokens:
    made = {name: part.new_empty(rows, *part.shape[1:]) for name, part in _parts(like).items()}
    return Tokens(made["states"], made.get("mask"), made.get("sizes"), prefix=like.prefix)


def in_first_order(index_B: Tensor) -> Tensor:
    """Different entries of an index, in the order in which they first occur."""
    values, place_B = index_B.unique(return_inverse=True)
    first = torch.full((len(values),), len(index_B)).scatter_reduce_(0, place_B, torch.arange(len(index_B)), "amin")
    return values[first.argsort()]
