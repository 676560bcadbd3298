"""Which patches of a view a student sees: those that a follower's class token attends to in a wider crop.

Source: Yang et al. 2023 (A-CLIP), arXiv 2212.08653; microsoft/A-CLIP, models.py. Boxes are (top, left, height, width)
in pixels of the image that was cropped. Shapes: B images, L patches on a grid, of which blocks of 2 x 2 are kept or go
together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.kit.errors import HarnessError
from harness.reduction import Evidence, MethodConfig, StackShape, TokenReducer, TokenState

SIDE = 2


class ClassAttention(TokenReducer[MethodConfig]):
    """Reduces nothing and notes `attention` (B, L): what the class token attends to, mean over all blocks and heads."""

    def __init__(self, shape: StackShape) -> None:
        super().__init__(MethodConfig(), shape)

    def evidence(self, block: int) -> frozenset[str]:
        return frozenset({"cls_attention"})

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        assert evidence.cls_attention is not None
        share = evidence.cls_attention / self.shape.depth
        return state.noted(attention=state.notes["attention"] + share if block else share)


def in_view(attention_BL: Tensor, boxes_B4: Tensor, wide_B4: Tensor, grid: tuple[int, int]) -> Tensor:
    """The attention (B, L) of a wide crop as it falls on the patches of a view; 0 where the view leaves the crop."""
    seen = []
    maps = attention_BL.unflatten(1, grid)
    for plane, box, wide in zip(maps, boxes_B4.tolist(), wide_B4.tolist(), strict=True):
        pixels = F.interpolate(plane[None, None], (wide[2], wide[3]), mode="bilinear")
        cut = window(pixels, box[0] - wide[0], box[1] - wide[1], box[2], box[3])
        seen.append(F.interpolate(cut, grid, mode="bilinear"))
    return torch.cat(seen).flatten(1)


def window(plane: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    """A window of planes (…, H, W), which may lie outside in part or as a whole: zeros there."""
    found = plane.new_zeros(*plane.shape[:-2], height, width)
    first, last = max(top, 0), min(top + height, plane.shape[-2])
    begin, end = max(left, 0), min(left + width, plane.shape[-1])
    if first < last and begin < end:
        found[..., first - top : last - top, begin - left : end - left] = plane[..., first:last, begin:end]
    return found


def removed_patches(attention_BL: Tensor, grid: tuple[int, int], keep: float) -> Tensor:
    """(B, L) bool: all patches but those of the int(blocks * keep) + 1 blocks with the largest mean attention."""
    blocks = F.interpolate(attention_BL.unflatten(1, grid).unsqueeze(1), _halved(grid), mode="bilinear").flatten(1)
    best = blocks.argsort(dim=1, descending=True, stable=True)[:, : kept_blocks(grid, keep)]
    gone = torch.ones_like(blocks, dtype=torch.bool).scatter(1, best, False).unflatten(1, _halved(grid))
    return gone.repeat_interleave(SIDE, dim=1).repeat_interleave(SIDE, dim=2).flatten(1)


def kept_patches(removed_BL: Tensor, count: int) -> Tensor:
    """(B, count), the places of the patches that are left, in raster order."""
    return removed_BL.to(torch.int8).argsort(dim=1, stable=True)[:, :count]


def kept_blocks(grid: tuple[int, int], keep: float) -> int:
    """How many blocks stay."""
    return int(_halved(grid)[0] * _halved(grid)[1] * keep) + 1


def check_grid(shape: StackShape, objective: str) -> tuple[int, int]:
    """Rows and columns of a tower's patches; HarnessError where blocks of 2 x 2 do not cover them."""
    grid: Any = shape.grid
    if grid is None or grid[0] % SIDE or grid[1] % SIDE or not shape.class_token:
        raise HarnessError(
            f"objective {objective}: masks blocks of 2 x 2 patches by class attention, and {shape.name} has "
            f"{'no grid' if grid is None else f'{grid[0]} x {grid[1]} patches'}; take an even grid and a class token"
        )
    return grid[0], grid[1]


def _halved(grid: tuple[int, int]) -> tuple[int, int]:
    return grid[0] // SIDE, grid[1] // SIDE
