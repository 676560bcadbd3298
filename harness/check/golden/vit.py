"""A method in timm's ViT against its reference vectors: tokens, sizes, counts, sources and gradients.

Shapes: B images, N tokens that are left, M tokens at the input, prefix included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from harness.check.golden.file import Golden, difference
from harness.hosts.parts.towers import VisionTower, open_tower
from harness.reduction import Guide, TokenReducer, Tokens, Trace, encode
from harness.reduction.budget import make_reducer

SIZES = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
Parameter = Callable[[str], str | None]


def of_tower(name: str) -> str | None:
    """No released parameter is the method's own."""
    return None


@dataclass
class Run:
    """One pass of a golden file: the tower, the method with its released parameters, what left, and its trace."""

    golden: Golden
    model: VisionTransformer
    reducer: TokenReducer[Any]
    parameter: Parameter
    tokens: Tokens
    trace: Trace

    @property
    def tower(self) -> VisionTower:
        return open_tower(self.model)

    def gradient(self, name: str) -> Tensor | None:
        """The gradient of a released parameter after a backward pass; None where none came."""
        own = self.parameter(name)
        return dict(self.model.named_parameters())[name].grad if own is None else self.reducer.get_parameter(own).grad

    def gradient_errors(self, part: str) -> dict[str, float]:
        """By name, of the file's gradients under `part` ("grad", "grad_total"); one that did not come is zero."""
        found = {}
        for name, expected in self.golden.part(part).items():
            ours = self.gradient(name)
            found[f"{part}.{name}"] = difference(torch.zeros_like(expected) if ours is None else ours, expected)
        return found


def run_vit(golden: Golden, settings: dict[str, Any], parameter: Parameter = of_tower, **inputs: Any) -> Run:
    """Run a file's images through its ViT with the method; `inputs`: attributes of the reducer (its draws)."""
    config = golden.config
    norm = partial(torch.nn.LayerNorm, eps=config["norm_eps"])
    sizes = {name: config[name] for name in SIZES}
    classes = config.get("num_classes", 0)
    model = VisionTransformer(**sizes, num_classes=classes, norm_layer=norm).double()
    weights = golden.part("weight")
    model.load_state_dict({name: value for name, value in weights.items() if parameter(name) is None})
    tower = open_tower(model.eval())
    reducer = make_reducer(config["method"], tower.shape, settings=settings).double()
    learned = {own: value for name, value in weights.items() if (own := parameter(name)) is not None}
    if learned or reducer.learns:
        reducer.load_state_dict(learned)
    reducer.train(config.get("mode") == "train")
    for name, value in inputs.items():
        setattr(reducer, name, value)
    given = golden.part("input")
    guide = Guide(given["text_cls"]) if "text_cls" in given else None
    trace = Trace(origins_wanted=True)
    tokens = encode(tower, reducer, given["image"], guide, trace)
    return Run(golden, model, reducer, parameter, tokens, trace)


def check_vit(golden: Golden, settings: dict[str, Any], parameter: Parameter = of_tower) -> dict[str, float]:
    """Largest absolute error of each output that the file holds of tokens, sizes, counts, source and gradients."""
    run = run_vit(golden, settings, parameter)
    outputs, tokens = golden.part("output"), run.tokens
    errors = {"tokens": difference(tokens, outputs["tokens"])}
    ones = tokens.states.new_ones(tokens.states.shape[:2])
    sizes = (ones if tokens.sizes is None else tokens.sizes).to(ones.dtype)
    for expected in (golden.part("input").get("expected_size"), outputs.get("sizes")):
        if expected is not None:
            errors["sizes"] = difference(sizes.view_as(expected), expected)
    if "counts" in outputs:
        errors["counts"] = difference(torch.tensor(run.trace.mlp, dtype=torch.float64), outputs["counts"])
    if "source" in outputs:
        errors["source"] = difference(source_of(tokens), outputs["source"])
    tokens.states.square().mean().backward()
    return errors | run.gradient_errors("grad")


def source_of(tokens: Tokens) -> Tensor:
    """(B, N, M), 1 where token n holds input token m."""
    assert tokens.origin is not None
    batch, count = tokens.states.shape[:2]
    patches = torch.zeros(batch, count, tokens.origin.shape[1], dtype=torch.float64)
    rows, inputs = torch.where(tokens.origin >= 0)
    patches[rows, tokens.origin[rows, inputs] + tokens.prefix, inputs] = 1
    own = torch.zeros(batch, count, tokens.prefix, dtype=torch.float64)
    own[:, range(tokens.prefix), range(tokens.prefix)] = 1
    return torch.cat([own, patches], dim=2)
