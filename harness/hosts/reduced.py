"""A reduced copy of a ViT of one's own: `harness.reduce(model, "tome", ratio=0.7)`."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from harness.hosts.parts.towers import VisionTower, open_tower
from harness.kit.errors import HarnessError
from harness.reduction import Guide, TokenReducer, Tokens, encode
from harness.reduction.budget import make_reducer


class ReducedModel(nn.Module):
    """A ViT with a token-reduction method inside; called like the model it was made from, plus `guide` for text."""

    def __init__(self, model: nn.Module, reducer: TokenReducer[Any]) -> None:
        super().__init__()
        self.model = model
        self.reducer = reducer

    @property
    def tower(self) -> VisionTower:
        return open_tower(self.model)

    def forward_features(self, images: Tensor, guide: Guide | None = None) -> Tensor:
        """Images (B, C, H, W) -> tokens (B, N', D) after the final norm."""
        return self.encode(images, guide).states

    def encode(self, images: Tensor, guide: Guide | None = None) -> Tokens:
        """The same with what the tokens stand for."""
        return encode(self.tower, self.reducer, images, guide)

    def forward(
        self, images: Tensor | None = None, guide: Guide | None = None, *, pixel_values: Tensor | None = None
    ) -> Any:
        """What the model's own forward returns, from the reduced tokens; images by timm's or transformers' name."""
        given = images if images is not None else pixel_values
        if given is None:
            raise HarnessError("no images: call with images or pixel_values (B, C, H, W)")
        return self.tower.output(self.encode(given, guide))


def reduce(
    model: nn.Module, method: str, ratio: float | None = None, schedule: Any = None, **settings: Any
) -> ReducedModel:
    """A reduced copy of a timm or transformers ViT: `harness.reduce(model, "tome", ratio=0.7)`.

    The model itself is left as it is. Settings are the method's own (`r=8`). Raises HarnessError as `make_reducer`.
    """
    reducer = make_reducer(method, open_tower(model).shape, ratio=ratio, schedule=schedule, settings=settings)
    return ReducedModel(copy.deepcopy(model), reducer).train(model.training)
