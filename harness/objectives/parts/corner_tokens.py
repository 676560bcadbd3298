"""LoTLIP's texts: [CLS] and corner tokens that each read all words and never each other, and the loss over all of them.

Source: wuw2019/LoTLIP, open_clip/hf_model.py (`build_attn_mask`), open_clip/model.py and open_clip/loss.py. Shapes: B
images, V views of each, T texts of each, C corner tokens, S = 1 + C special tokens, L positions, D width, P shared
space, F = 1 + (T - 1) * S features of an image's texts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.objectives.parts.contrast import pair_contrast
from harness.reduction import BlockHooks, Stack, TokenState, attention, drive


def corner_mask(standing_BL: Tensor, special_L: Tensor, read: int | None = 0) -> Tensor:
    """(B, L, L) bool, which position (row) reads which (column).

    Words read the words that stand and the special token at place `read` (None: no special one); so does padding. A
    special token reads itself and all words that stand, never another special one.
    """
    among_LL = torch.diag(special_L)
    if read is not None:
        among_LL[~special_L, read] = True
    return (standing_BL.bool() & ~special_L)[:, None, :] | among_LL


def causal_corner_mask(standing_BL: Tensor, special_L: Tensor) -> Tensor:
    """The same for a text encoder in which a word reads itself and those before it: words read no special token."""
    length = len(special_L)
    before_LL = torch.ones(length, length, dtype=torch.bool, device=special_L.device).tril() | special_L[:, None]
    return corner_mask(standing_BL, special_L, None) & (before_LL | torch.diag(special_L))


class ReadBy(BlockHooks):
    """No reduction: a stack whose positions read each other by a mask (B, L, L) in place of its own."""

    def __init__(self, mask_BLL: Tensor) -> None:
        super().__init__()
        self.mask_BLL = mask_BLL

    def attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        return attention(q, k, v, self.mask_BLL[:, None], stack.attention_dropout(block)), state


def read_by(stack: Stack, embedded_BLD: Tensor, mask_BLL: Tensor) -> Tensor:
    """What leaves a text stack, (B, L, D), where positions read each other by a mask."""
    return drive(stack, TokenState(embedded_BLD), ReadBy(mask_BLL)).states


def texts_of_images(features_BTSP: Tensor) -> Tensor:
    """(B, F, P): of an image's first text the feature of [CLS], of each further one those of all special tokens."""
    return torch.cat([features_BTSP[:, 0, :1], features_BTSP[:, 1:].flatten(1, 2)], dim=1)


def long_text_contrast(
    images_BVP: Tensor, texts_BFP: Tensor, scale: Tensor, weights: tuple[float, float] = (1.0, 1.0), long: bool = True
) -> dict[str, Tensor]:
    """Contrasts of unit features, each over F: of the first view with the first text, and the sum of all other ones.

    Weighted by `weights`; a sum of none is 0. Not `long`: the first alone, over F all the same. Nothing is divided by
    the number of views.
    """
    views, texts = images_BVP.unbind(1), texts_BFP.unbind(1)
    found = {"short": weights[0] * pair_contrast(views[0], texts[0], scale) / len(texts)}
    if long:
        pairs = [(view, text) for view in views for text in texts][1:]
        others: list[Any] = [pair_contrast(view, text, scale) for view, text in pairs] or [torch.zeros_like(scale)]
        found["long"] = weights[1] * torch.stack(others).sum() / len(texts)
    return found
