"""A reduced copy of a ViT of one's own, or of a model that holds one: `harness.reduce(model, "tome", ratio=0.7)`.

Shapes: B images, N tokens, D channels.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from harness.hosts.parts.towers import VisionTower, find_tower, open_tower
from harness.hosts.reduced_vit import ReducedModel, Wrapper
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.reduction import Guide, StackShape, TokenReducer, Tokens, Trace
from harness.reduction.budget import make_reducer

# Models of transformers that average the last states themselves: they get the mean that counts merged tokens.
AVERAGING = frozenset(
    {"SiglipForImageClassification", "Siglip2ForImageClassification"}
    | {"Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification"}
)


class ReducedInside(Wrapper):
    """A model with a reduced ViT within (CLIPModel, ViTForImageClassification, open_clip's CLIP), called like itself.

    All its methods run the reduced ViT. `part`: the ReducedModel, which stands in the ViT's place.
    """

    def __init__(self, model: nn.Module, place: str) -> None:
        super().__init__()
        self.model = model
        self.place = place

    @property
    def part(self) -> ReducedModel:
        found = self.model.get_submodule(self.place)
        assert isinstance(found, ReducedModel)
        return found

    @property
    def reducer(self) -> TokenReducer[Any]:
        return self.part.reducer

    @property
    def tower(self) -> VisionTower:
        return self.part.tower

    def forward_features(self, images: Tensor, guide: Guide | None = None) -> Tensor:
        """Images -> tokens (B, N', D) after the ViT's final norm."""
        return self.part.forward_features(images, guide)

    def encode(self, images: Tensor, guide: Guide | None = None, trace: Trace | None = None) -> Tokens:
        """The same with what the tokens stand for."""
        return self.part.encode(images, guide, trace)

    def forward(self, *inputs: Any, guide: Guide | None = None, **options: Any) -> Any:
        """The model's own forward; `guide` reaches its ViT."""
        with self.guided(guide):
            return self.model(*inputs, **options)

    @contextmanager
    def unreduced(self) -> Iterator[nn.Module]:
        """The model with its own ViT in place, for the length of the block."""
        part = self.part
        _put(self.model, self.place, part.model)
        try:
            yield self.model
        finally:
            _put(self.model, self.place, part)

    @contextmanager
    def guided(self, guide: Guide | None) -> Iterator[None]:
        """Give the ViT a guide, for other methods: `with reduced.guided(guide): reduced.get_image_features(…)`."""
        part = self.part
        before, part.guide = part.guide, part.guide if guide is None else guide
        try:
            yield
        finally:
            part.guide = before


def reduce(
    model: nn.Module,
    method: str,
    ratio: float | None = None,
    schedule: Any = None,
    *,
    strict: bool = False,
    **settings: Any,
) -> ReducedModel | ReducedInside:
    """A reduced copy of a ViT, or of a model that holds one: `harness.reduce(model, "tome", ratio=0.7)`.

    The model itself is left as it is. Settings are the method's own (`r=8`). `strict`: refuse to run a text-guided
    method without a guide. A method that learns is as it was drawn, which a warning says: train `reduced.reducer`, or
    load what it learned. Raises HarnessError as `make_reducer` and `find_tower`.
    """
    if not isinstance(model, nn.Module):
        raise HarnessError(
            f"{str(model)[:40]!r} is no torch.nn.Module: give the ViT itself, as timm.create_model makes it"
        )
    if not isinstance(method, str):
        raise HarnessError(f"method: a {type(method).__name__}, expected a name, such as 'tome' (see `list methods`)")
    make = partial(_made, method, _number("ratio", ratio), schedule, settings)
    place, vit = find_tower(model)
    reducer = make(open_tower(vit).shape)
    if reducer.learns:
        warn_on_stderr(f"method {method} learns, and is as it was drawn: train it, or load what it learned")
    if not place:
        return ReducedModel(copy.deepcopy(model), reducer, make, strict=strict).train(model.training)
    whole = copy.deepcopy(model)
    part = ReducedModel(whole.get_submodule(place), reducer, make, strict=strict)
    part.averaged = type(model).__name__ in AVERAGING
    _put(whole, place, part)
    return ReducedInside(whole, place).train(model.training)


def _number(what: str, given: Any) -> float | None:
    """A number of Python's, numpy's or torch's own as a float; HarnessError for anything else."""
    if given is None:
        return None
    if isinstance(given, bool | str) or not hasattr(given, "__float__") or getattr(given, "shape", ()) != ():
        raise HarnessError(f"{what} {given!r}: expected a number above 0 and at most 1")
    return float(given)


def _put(model: nn.Module, place: str, part: nn.Module) -> None:
    outer, _, name = place.rpartition(".")
    setattr(model.get_submodule(outer), name, part)


def _made(
    method: str, ratio: float | None, schedule: Any, settings: dict[str, Any], shape: StackShape
) -> TokenReducer[Any]:
    return make_reducer(method, shape, ratio=ratio, schedule=schedule, settings=settings)
