"""Patches kept or removed in blocks of 2 x 2 by the attention they get (A-CLIP).

Source: Yang et al. 2023, arXiv 2212.08653; microsoft/A-CLIP, models.py, `get_att_mask`. Shapes: B images, L patches on
a grid of even sides.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.kit.errors import HarnessError
from harness.reduction.stack import StackShape

SIDE = 2
PATCHES_OF_A_BLOCK = SIDE**2


def removed_patches(attention_BL: Tensor, grid: tuple[int, int], keep: float) -> Tensor:
    """(B, L) bool: all patches but those of the int(blocks * keep) + 1 blocks with the largest mean attention.

    Blocks of equal attention (0 outside of what the attention is of) stand as torch's default sort leaves them, as in
    the release.
    """
    blocks = F.interpolate(attention_BL.unflatten(1, grid).unsqueeze(1), _halved(grid), mode="bilinear").flatten(1)
    best = blocks.argsort(dim=1, descending=True)[:, : kept_blocks(grid, keep)]
    gone = torch.ones_like(blocks, dtype=torch.bool).scatter(1, best, False).unflatten(1, _halved(grid))
    return gone.repeat_interleave(SIDE, dim=1).repeat_interleave(SIDE, dim=2).flatten(1)


def kept_patches(removed_BL: Tensor, count: int) -> Tensor:
    """(B, count), the places of the patches that are left, in raster order."""
    return removed_BL.to(torch.int8).argsort(dim=1, stable=True)[:, :count]


def kept_blocks(grid: tuple[int, int], keep: float) -> int:
    """How many blocks stay: int(blocks * keep) + 1, of a `keep` of 1 all that there are."""
    blocks = _halved(grid)[0] * _halved(grid)[1]
    return min(blocks, int(blocks * keep) + 1)


def check_even_grid(shape: StackShape, what: str) -> tuple[int, int]:
    """Rows and columns of a tower's patches; HarnessError where blocks of 2 x 2 do not cover them.

    what: the method or objective that asks, as the message names it.
    """
    grid: Any = shape.grid
    if grid is None or grid[0] % SIDE or grid[1] % SIDE or not shape.class_token:
        raise HarnessError(
            f"{what}: masks blocks of 2 x 2 patches by class attention, and {shape.name} has "
            f"{'no grid' if grid is None else f'{grid[0]} x {grid[1]} patches'}; take an even grid and a class token"
        )
    return grid[0], grid[1]


def _halved(grid: tuple[int, int]) -> tuple[int, int]:
    return grid[0] // SIDE, grid[1] // SIDE
