"""Stand-ins that have a model's shapes and none of its data, and the inputs to run them with."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from harness.kit.errors import HarnessError
from harness.reduction import Guide, TokenReducer, Trace, encode
from harness.reduction.plan import Sample

M = TypeVar("M", bound=nn.Module)
CONTAINERS = (OrderedDict, dict, set)
# Parameters and pixels of a tower that runs in less time than it takes to trace.
FAST_WEIGHTS, FAST_PIXELS = 3_000_000, 64 * 64


def skeleton(module: M, device: str | torch.device = "meta", dtype: torch.dtype | None = None) -> M:
    """A copy with new tensors on `device` instead of the data, which is neither copied nor touched.

    On a real device they are zeros; inside FakeTensorMode they are fake. Floating tensors take `dtype`.
    """

    def empty(tensor: Tensor) -> Tensor:
        kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        return torch.zeros(tensor.shape, dtype=kind, device=device)

    stand_ins: dict[int, Any] = {}
    for parameter in module.parameters():
        stand_ins[id(parameter)] = nn.Parameter(empty(parameter), requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        stand_ins[id(buffer)] = empty(buffer)
    parts = [part for part in module.modules() if _copied_by_its_dict(type(part))]
    for part in parts:
        stand_ins[id(part)] = type(part).__new__(type(part))
    for part in parts:
        # As deepcopy does, but for a dozen empty containers of hooks, whose copying takes longer than all the rest.
        held = {
            name: type(value)() if type(value) in CONTAINERS and not value else copy.deepcopy(value, stand_ins)
            for name, value in vars(part).items()
        }
        vars(stand_ins[id(part)]).update(held)
    return copy.deepcopy(module, stand_ins)


def _copied_by_its_dict(kind: type[nn.Module]) -> bool:
    """Whether a class of modules leaves its copying to nn.Module, which takes over what its objects hold."""
    ways = ("__deepcopy__", "__copy__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__slots__")
    return all(getattr(kind, way, None) is getattr(nn.Module, way, None) for way in ways)


def runs_fast(model: nn.Module) -> bool:
    """Whether running a tower on zeros takes less time than tracing it without data, operator by operator in Python."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    _, height, width = image_shape(model)
    return weights <= FAST_WEIGHTS and height * width <= FAST_PIXELS


def image_shape(model: nn.Module) -> tuple[int, int, int]:
    """(C, H, W) of the images a ViT was built for."""
    from harness.hosts.parts.towers import open_tower

    return open_tower(model).images


def tower_inputs(
    model: nn.Module,
    reducer: TokenReducer[Any],
    batch: int,
    device: str | torch.device,
    dtype: torch.dtype,
    fill: str = "zeros",
    sample: Sample | None = None,
) -> tuple[Tensor, Guide | None]:
    """Images (B, C, H, W) of `zeros` or `rand` values and, for methods that use a text, a guide as the host's.

    For adaptive methods the first images of a `sample` instead, over and over where there are fewer than the batch.
    """
    if sample is not None and reducer.adaptive:
        rows = torch.arange(batch) % len(sample.images)
        guide = None if sample.guide is None else sample.guide.rows(rows).each(partial(_at, device, dtype))
        return sample.images[rows].to(device, dtype), guide
    make = {"zeros": torch.zeros, "rand": torch.rand}[fill]
    images = make(batch, *image_shape(model), device=device, dtype=dtype)
    if not (reducer.needs_text or reducer.needs_momentum):
        return images, None
    text, attention = (
        make(batch, size, device=device, dtype=dtype) for size in (reducer.shape.width, reducer.shape.patches)
    )
    return images, reducer.shape.offer.stand_in(text, attention, make)


def _at(device: str | torch.device, dtype: torch.dtype, part: Tensor) -> Tensor:
    return part.to(device, dtype if part.is_floating_point() else None)


def tower_call(
    model: nn.Module,
    reducer: TokenReducer[Any],
    images: Tensor,
    guide: Guide | None,
    trace: Trace | None = None,
    with_head: bool = True,
) -> Callable[[], Any]:
    """A call that runs images through the reduced tower and, if `with_head`, the model's pooling and head."""
    from harness.hosts.parts.towers import open_tower

    tower = open_tower(model)

    def run() -> Any:
        tokens = encode(tower, reducer, images, guide, trace)
        output = tower.output(tokens) if with_head else tokens.states
        # What a method noted is what its own losses come from: a training step goes through it too.
        return [output, *tokens.notes.values()] if tokens.notes else output

    return run


@contextmanager
def mode_of(model: nn.Module, training: bool) -> Iterator[None]:
    """The model in training or evaluation mode inside, as it was afterwards."""
    before = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, training_before in before.items():
            module.training = training_before


R = TypeVar("R")


def without_data(attempt: Callable[[str], R]) -> R:
    """attempt("meta"), or attempt("cpu") for a method whose token counts or branches depend on values."""
    try:
        return attempt("meta")
    except HarnessError:
        raise
    except RuntimeError:
        return attempt("cpu")
