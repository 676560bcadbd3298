"""A reduced copy of a ViT of one's own: `harness.reduce(model, "tome", ratio=0.7)`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from harness.hosts.parts.towers import VisionTower, open_tower
from harness.kit import recompute
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.reduction import Guide, StackShape, TokenReducer, Tokens, encode
from harness.reduction.budget import make_reducer

Make = Callable[[StackShape], TokenReducer[Any]]


class ReducedModel(nn.Module):
    """A ViT with a token-reduction method inside; called like the model it was made from, plus `guide` for text.

    Images of another size than the model was built for, where it takes such, are reduced to the same ratio. Without a
    guide a text-guided method does what its `without_text` says: a warning says so once, or `strict` refuses.
    """

    def __init__(
        self, model: nn.Module, reducer: TokenReducer[Any], make: Make | None = None, *, strict: bool = False
    ) -> None:
        """`make`: a reducer for a tower of another number of patches; without it, other sizes are refused."""
        super().__init__()
        self.model = model
        self.reducer = reducer
        self.strict = strict
        self._make = make
        self._others: dict[int, TokenReducer[Any]] = {}
        self._warned = False

    @property
    def tower(self) -> VisionTower:
        return open_tower(self.model)

    def forward_features(self, images: Tensor, guide: Guide | None = None) -> Tensor:
        """Images (B, C, H, W) -> tokens (B, N', D) after the final norm."""
        return self.encode(images, guide).states

    def encode(self, images: Tensor, guide: Guide | None = None) -> Tokens:
        """The same with what the tokens stand for; HarnessError for a guide of another width than the tower's."""
        tower = self.tower
        self._check(guide, tower.shape.width)
        reducer = self._fitting(tower.patches_of(images))
        with recompute.recomputing(recompute.wanted() or (self.training and tower.recomputes)):
            return encode(tower, reducer, images, guide)

    def forward(
        self, images: Tensor | None = None, guide: Guide | None = None, *, pixel_values: Tensor | None = None
    ) -> Any:
        """What the model's own forward returns, from the reduced tokens; images by timm's or transformers' name."""
        given = images if images is not None else pixel_values
        if given is None:
            raise HarnessError("no images: call with images or pixel_values (B, C, H, W)")
        return self.tower.output(self.encode(given, guide))

    def _check(self, guide: Guide | None, width: int) -> None:
        if guide is not None and guide.text_cls.shape[-1] != width:
            raise HarnessError(
                f"guide of width {guide.text_cls.shape[-1]}: expected the tower's, {width}; project the text into it"
            )
        if guide is not None or not self.reducer.needs_text:
            return
        line = f"{type(self.reducer).__name__} without a guide keeps {self.reducer.without_text}"
        if self.strict:
            raise HarnessError(f"{line}; call with guide=harness.Guide(text_cls)")
        if not self._warned:
            warn_on_stderr(f"{line}: call with guide=harness.Guide(text_cls)")
            self._warned = True

    def _fitting(self, patches: int) -> TokenReducer[Any]:
        """The reducer for so many patches: the model's own, or one made for them and kept."""
        shape = self.reducer.shape
        if patches == shape.patches:
            return self.reducer
        if self._make is None or self.reducer.learns:
            raise HarnessError(
                f"{patches} patches: the method was made for the {shape.patches} of the model's own image size; give "
                "images of that size"
            )
        if patches not in self._others:
            self._others[patches] = self._make(self.tower.sized(patches))
        return self._others[patches]


def reduce(
    model: nn.Module,
    method: str,
    ratio: float | None = None,
    schedule: Any = None,
    *,
    strict: bool = False,
    **settings: Any,
) -> ReducedModel:
    """A reduced copy of a timm or transformers ViT: `harness.reduce(model, "tome", ratio=0.7)`.

    The model itself is left as it is. Settings are the method's own (`r=8`). `strict`: refuse to run a text-guided
    method without a guide. Raises HarnessError as `make_reducer`.
    """
    make = partial(_made, method, ratio, schedule, settings)
    reducer = make(open_tower(model).shape)
    return ReducedModel(copy.deepcopy(model), reducer, make, strict=strict).train(model.training)


def _made(
    method: str, ratio: float | None, schedule: Any, settings: dict[str, Any], shape: StackShape
) -> TokenReducer[Any]:
    return make_reducer(method, shape, ratio=ratio, schedule=schedule, settings=settings)
