"""Downsample: the same weights on a smaller image, position embeddings resized. The control for any reduction.

Benchmarks of 2025-26 found it ahead of many published methods. The image is resized (bicubic, antialiased) to a whole
number of patches each way, and the tower interpolates its position table as its own program does. Its ratio is its
patches over those of the full image; what can be reached is as coarse as the grid, hence the wide tolerance.
"""

from dataclasses import replace

from torch import Tensor

from harness.reduction import (
    Guide,
    MethodConfig,
    Ratio,
    Stack,
    StackShape,
    TokenReducer,
    TokenState,
    patch_grid,
    patches_in,
    resized_to,
    smaller_grid,
)


class DownsampleConfig(MethodConfig):
    """keep: patches of the smaller image over those of the full one; the nearest grid is taken."""

    keep: Ratio = 0.5

    def bent(self, gamma: float) -> "DownsampleConfig":
        return self.model_copy(update={"keep": max(self.keep**gamma, 1e-9)})


class Downsample(TokenReducer[DownsampleConfig]):
    """The tower opens a smaller image; nothing else changes."""

    Config = DownsampleConfig
    tolerance = 0.05

    def __init__(self, config: DownsampleConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.full = patch_grid(shape, "downsample")
        self.grid = smaller_grid(self.full, config.keep)

    def resized(self, images: Tensor) -> Tensor | None:
        return resized_to(images, self.full, self.grid)

    def opened(self, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if state.origin is None:
            return state
        places = patches_in(self.full, self.grid, state.tokens.device)
        return replace(state, origin=places.repeat(len(state.tokens), 1))
