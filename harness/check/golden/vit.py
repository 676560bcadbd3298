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

    @property
    def logits(self) -> Tensor:
        """(B, classes), the released classifier's, of the class token."""
        logits: Tensor = self.model.head(self.tokens.states[:, 0])
        return logits

    @property
    def labels(self) -> Tensor:
        """(B,), the classes that the file's images are of."""
        return self.golden.part("input")["labels"]

    def backward(self, loss: Tensor, part: str) -> dict[str, float]:
        """`gradient_errors` of the gradients of one loss alone."""
        self.model.zero_grad()
        self.reducer.zero_grad()
        loss.backward(retain_graph=True)
        return self.gradient_errors(part)

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
    """Run a file's images through its ViT with the method; `inputs`: attributes it is given (draws)."""
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


def check_vit(
    golden: Golden, settings: dict[str, Any], parameter: Parameter = of_tower, **inputs: Any
) -> dict[str, float]:
    """`run_errors` of `run_vit`, which says what `inputs` are."""
    return run_errors(run_vit(golden, settings, parameter, **inputs))


def run_errors(run: Run, leave: tuple[str, ...] = ()) -> dict[str, float]:
    """Largest absolute error of each output that the file holds of what every method gives, and of the gradients.

    These are tokens, sizes, counts, source, mask, logits, kept and assignment. `leave`: outputs, or the first part of
    their names, that mean something else in this file.
    """
    golden, tokens = run.golden, run.tokens
    outputs = {name: value for name, value in golden.part("output").items() if name not in leave}
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
    if "mask" in outputs:
        errors["mask"] = difference(tokens.standing.long(), outputs["mask"])
    if "logits" in outputs:
        errors["logits"] = difference(run.logits, outputs["logits"])
    for name, expected in outputs.items():
        if name.startswith(("kept.", "assignment.")) and name.partition(".")[0] not in leave:
            errors[name] = difference(places_of(run, name, expected), expected)
    return errors | run.backward(tokens.states.square().mean(), "grad")


def places_of(run: Run, name: str, expected: Tensor) -> Tensor:
    """What the file calls `kept.BLOCK`, (B, K): the tokens that entered the block and stand behind the prefix now, or
    `assignment.BLOCK`, (B, P): the places that they went to; counted from the front where the file has the prefix, too.
    """
    what, _, block = name.partition(".")
    if (noted := run.tokens.notes.get(f"{what}_{block}")) is not None:
        return noted
    move, prefix = run.trace.moves[int(block)], run.tokens.prefix
    if what == "assignment":
        if expected.shape[1] == move.shape[1]:
            return move
        front = torch.arange(prefix).expand(len(move), -1)
        return torch.cat([front, torch.where(move < 0, move, move + prefix)], dim=1)
    kept = move.new_full((len(move), expected.shape[1] + 1), -1)
    entered = torch.arange(move.shape[1]).expand_as(move)
    return kept.scatter(1, torch.where(move < 0, expected.shape[1], move), entered)[:, :-1]


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
