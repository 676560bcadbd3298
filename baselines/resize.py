"""Resize: train on smaller images, evaluate at full size (CLIPA, NeurIPS 2023). A control for reduction in training.

Rests on the paper (arXiv 2305.07017): images are resized as a whole, position embeddings with them. The paper ends with
a short training at full size, which here is a run of its own with `dense` that starts from these weights.
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


class ResizeConfig(MethodConfig):
    """keep: patches of the images trained on over those of full size (.25: 112 of 224 pixels)."""

    keep: Ratio = 0.25

    def bent(self, gamma: float) -> "ResizeConfig":
        return self.model_copy(update={"keep": max(self.keep**gamma, 1e-9)})


class Resize(TokenReducer[ResizeConfig]):
    """In training the tower opens a smaller image; in evaluation the full one."""

    Config = ResizeConfig
    only_in_training = True
    tolerance = 0.05

    def __init__(self, config: ResizeConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.full = patch_grid(shape, "resize")
        self.grid = smaller_grid(self.full, config.keep)

    def resized(self, images: Tensor) -> Tensor | None:
        return resized_to(images, self.full, self.grid) if self.training else None

    def opened(self, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if state.origin is None or not self.training:
            return state
        places = patches_in(self.full, self.grid, state.tokens.device)
        return replace(state, origin=places.repeat(len(state.tokens), 1))
