"""What methods share that open a smaller image instead of reducing tokens: the budget, the resize, the origins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

from torch import Tensor

from harness.reduction.grid import patch_grid, patches_in, resized_to, smaller_grid
from harness.reduction.guide import Guide
from harness.reduction.method import MethodConfig, TokenReducer
from harness.reduction.schedule import Ratio
from harness.reduction.stack import Stack, StackShape
from harness.reduction.state import TokenState


class SmallerImagesConfig(MethodConfig):
    """keep: patches of the smaller image over those of the full one; the nearest grid is taken."""

    keep: Ratio = 0.5

    def bent(self, gamma: float) -> Self:
        return self.model_copy(update={"keep": max(self.keep**gamma, 1e-9)})


class SmallerImages(TokenReducer[SmallerImagesConfig]):
    """The tower opens a smaller image, in training alone where the method says `only_in_training`.

    What can be reached is as coarse as the grid, hence the wide tolerance.
    """

    Config = SmallerImagesConfig
    tolerance = 0.05

    def __init__(self, config: Any, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.full = patch_grid(shape, type(self).__name__.lower())
        self.grid = smaller_grid(self.full, config.keep)

    @property
    def _at_work(self) -> bool:
        return self.training or not self.only_in_training

    def resized(self, images: Tensor) -> Tensor | None:
        return resized_to(images, self.full, self.grid) if self._at_work else None

    def opened(self, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if state.origin is None or not self._at_work:
            return state
        places = patches_in(self.full, self.grid, state.tokens.device)
        return replace(state, origin=places.repeat(len(state.tokens), 1))
