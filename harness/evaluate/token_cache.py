"""The tower's tokens of images, kept while there is room for them.

Shapes: I images, N tokens, D channels, B images asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

# At 384 px in float32, ViT-B/16's tokens of 2,400 images.
STATES_BUDGET_BYTES = 4 * 2**30
_ABSENT = -1


class ImageStates:
    """Tokens by image. The first to come are kept, up to `budget` bytes; beyond, only those of the last two batches.

    An index (B,) of images is on the CPU, tokens are where they were made.
    """

    def __init__(self, count: int, budget: int = STATES_BUDGET_BYTES) -> None:
        self.budget = budget
        self._kept: Tensor | None = None
        self._latest: Tensor | None = None
        self._used = 0
        self._last = torch.empty(0, dtype=torch.int64)
        self._kept_row, self._latest_row = (torch.full((count,), _ABSENT) for _ in range(2))

    def missing(self, index_B: Tensor) -> Tensor:
        """Those of the images that are not there, each once, in the order of asking."""
        return in_first_order(index_B[(self._kept_row[index_B] == _ABSENT) & (self._latest_row[index_B] == _ABSENT)])

    def add(self, index_B: Tensor, states_BND: Tensor, asked: Tensor, *, keep: bool = True) -> None:
        """Put in the tokens of images that were missing; `asked`: images that must stay even where there is no room.

        `keep` false: they are not wanted again later, and take up no room.
        """
        if self._kept is None:
            size = states_BND[0].numel() * states_BND.element_size()
            room = min(len(self._kept_row), self.budget // size)
            self._kept = states_BND.new_empty(room, *states_BND.shape[1:])
        free = min(len(index_B), len(self._kept) - self._used) if keep else 0
        self._kept[self._used : self._used + free] = states_BND[:free]
        self._kept_row[index_B[:free]] = torch.arange(self._used, self._used + free)
        self._used += free
        stay = in_first_order(torch.cat([self._last, asked[self._latest_row[asked] != _ABSENT]]))
        beyond = states_BND[free:]
        if self._latest is not None and len(stay):
            beyond = torch.cat([self._latest[self._latest_row[stay].to(beyond.device)], beyond])
        self._latest_row.fill_(_ABSENT)
        self._latest_row[torch.cat([stay, index_B[free:]])] = torch.arange(len(beyond))
        self._latest, self._last = beyond, index_B[free:]

    def take(self, index_B: Tensor) -> Tensor:
        """Tokens (B, N, D) of images that are there."""
        assert self._kept is not None
        assert self._latest is not None
        rows_B = self._kept_row[index_B]
        absent_B = rows_B == _ABSENT
        device = self._kept.device
        if not absent_B.any():
            return self._kept[rows_B.to(device)]
        latest_row = self._latest_row[index_B]
        if absent_B.all():
            return self._latest[latest_row.to(device)]
        states_BND = self._kept.new_empty(len(index_B), *self._kept.shape[1:])
        for source, rows, here_B in ((self._kept, rows_B, ~absent_B), (self._latest, latest_row, absent_B)):
            states_BND[here_B.to(device)] = source[rows[here_B].to(device)]
        return states_BND


def in_first_order(index_B: Tensor) -> Tensor:
    """Different entries of an index, in the order in which they first occur."""
    values, place_B = index_B.unique(return_inverse=True)
    first = torch.full((len(values),), len(index_B)).scatter_reduce_(0, place_B, torch.arange(len(index_B)), "amin")
    return values[first.argsort()]
