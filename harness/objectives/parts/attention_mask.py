"""What a follower's class token attends to in an image, and how that falls on the patches of a view.

Source: Yang et al. 2023 (A-CLIP), arXiv 2212.08653; microsoft/A-CLIP, models.py. Boxes are (top, left, height, width)
in pixels of the image that was cropped. Shapes: B images, L patches on a grid.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.reduction import Evidence, MethodConfig, StackShape, TokenReducer, TokenState


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
