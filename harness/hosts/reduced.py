"""A reduced copy of a ViT of one's own: `harness.reduce(model, "tome", ratio=0.7)`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn

from harness.hosts.parts.towers import VisionTower, open_tower
from harness.kit import recompute
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.reduction import Guide, StackShape, TokenReducer, Tokens, encode
from harness.reduction.budget import make_reducer

Make = Callable[[StackShape], TokenReducer[Any]]
Grid = tuple[int, int]


class ReducedModel(nn.Module):
    """A ViT with a token-reduction method inside; called like the model it was made from, plus `guide` for text.

    Images of another size than the model was built for, where it takes such, are reduced to the same ratio. Without a
    guide a text-guided method sees no text: a warning says once what became of the tokens, or `strict` refuses.
    """

    def __init__(
        self, model: nn.Module, reducer: TokenReducer[Any], make: Make | None = None, *, strict: bool = False
    ) -> None:
        """`make`: a reducer for a tower with other rows and columns of patches; without it, other sizes are refused."""
        super().__init__()
        self.model = model
        self.reducer = reducer
        self.strict = strict
        self._make = make
        self._others: dict[Grid | int, TokenReducer[Any]] = {}
        self._warned = False
        # Opened once: a compiled graph holds what is called, not what is made.
        self._tower = open_tower(model)

    @property
    def tower(self) -> VisionTower:
        """The model, opened; anew where another model was put in its place."""
        if self._tower.model is not self.model:
            self._tower = open_tower(self.model)
        return self._tower

    def forward_features(self, images: Tensor, guide: Guide | None = None) -> Tensor:
        """Images (B, C, H, W) -> tokens (B, N', D) after the final norm."""
        return self.encode(images, guide).states

    def encode(self, images: Tensor, guide: Guide | None = None) -> Tokens:
        """The same with what the tokens stand for; HarnessError for a guide of another width than the tower's."""
        tower = self.tower
        self._check(guide, tower.shape.width)
        reducer = self._fitting(tower.sized_for(images))
        saves = self.training and tower.recomputes and not recompute.wanted()
        with recompute.recomputing(True) if saves else nullcontext():
            tokens = encode(tower, reducer, images, guide)
        if guide is None and self.reducer.needs_text and not self._warned:
            self._warned = True
            kept = self.reducer.without_text or _what_is_left(tokens, reducer.shape)
            warn_on_stderr(f"{self._unguided()} kept {kept}: call with guide=harness.Guide(text_cls)")
        return tokens

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
        if guide is None and self.reducer.needs_text and self.strict:
            raise HarnessError(f"{self._unguided()} is refused (strict): call with guide=harness.Guide(text_cls)")

    def _unguided(self) -> str:
        return f"{type(self.reducer).__name__}, which a text guides, without one"

    def _fitting(self, shape: StackShape) -> TokenReducer[Any]:
        """The reducer for a tower with such patches: the model's own, or one made for them and kept."""
        own = self.reducer.shape
        if shape.patches == own.patches and own.grid in (None, shape.grid):
            return self.reducer
        if self._make is None or self.reducer.learns:
            raise HarnessError(
                f"{shape.patches} patches: the method was made for the {own.patches} of the model's own image size; "
                "give images of that size"
            )
        place = shape.grid or shape.patches
        if place not in self._others:
            self._others[place] = self._make(shape)
        return self._others[place]


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
    method without a guide. A method that learns is as it was drawn, which a warning says: train `reduced.reducer`, or
    load what it learned. Raises HarnessError as `make_reducer`.
    """
    make = partial(_made, method, ratio, schedule, settings)
    reducer = make(open_tower(model).shape)
    if reducer.learns:
        warn_on_stderr(f"method {method} learns, and is as it was drawn: train it, or load what it learned")
    return ReducedModel(copy.deepcopy(model), reducer, make, strict=strict).train(model.training)


def _what_is_left(tokens: Tokens, shape: StackShape) -> str:
    """In words, how many of a tower's tokens left it."""
    whole = shape.prefix + shape.patches
    left = tokens.states.shape[1]
    return "all tokens" if left == whole and tokens.mask is None else f"at most {left} of {whole} tokens"


def _made(
    method: str, ratio: float | None, schedule: Any, settings: dict[str, Any], shape: StackShape
) -> TokenReducer[Any]:
    return make_reducer(method, shape, ratio=ratio, schedule=schedule, settings=settings)
