"""Compare methods with float64 reference vectors that were computed with the authors' released programs."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from harness.check.golden.file import Golden, difference, elip_settings, read_golden
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import Guide, Trace, encode
from harness.reduction.budget import make_reducer

TOLERANCE = 1e-8


def method_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a method's config from a golden file's words for them."""
    method = config["method"]
    if method == "elip":
        return elip_settings(config)
    if method == "evit":
        return {"blocks": config["drop_layers"], "keep_rate": config["keep_rate"], "fuse": config["fuse"]}
    if method == "tome":
        settings = {"proportional_attention": config["proportional_attention"]}
        if "r_per_layer" in config:
            return {"r_per_block": config["r_per_layer"], **settings}
        if (
            isinstance(config["r"], list)
            and len(config["r"]) == 2
            and (config["r"][1] < 0 or isinstance(config["r"][1], float))
        ):
            return {"r": config["r"][0], "inflect": config["r"][1], **settings}
        return {"r_per_block" if isinstance(config["r"], list) else "r": config["r"], **settings}
    raise HarnessError(f"golden of method {method!r}: expected elip, evit or tome")


def check_method(golden: Golden) -> float:
    """Largest absolute error of a method's tokens, sizes and gradients against the released program's."""
    config = golden.config
    fields = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio")
    norm = partial(torch.nn.LayerNorm, eps=config["norm_eps"])
    model = VisionTransformer(**{name: config[name] for name in fields}, num_classes=0, norm_layer=norm).double()
    model.load_state_dict(golden.part("weight"))
    tower = open_tower(model.eval())
    reducer = make_reducer(config["method"], tower.shape, settings=method_settings(config))
    inputs, outputs = golden.part("input"), golden.part("output")
    guide = Guide(inputs["text_cls"]) if "text_cls" in inputs else None
    trace = Trace()
    tokens = encode(tower, reducer, inputs["image"], guide, trace)
    errors = [difference(tokens.states, outputs["tokens"])]
    if "expected_size" in inputs:
        sizes = trace.sizes if trace.sizes is not None else tokens.states.new_ones(tokens.states.shape[:2])
        errors.append(difference(sizes.unsqueeze(-1), inputs["expected_size"]))
    tokens.states.square().mean().backward()
    parameters = dict(model.named_parameters())
    for name, expected in golden.part("grad").items():
        gradient = parameters[name].grad
        errors.append(difference(torch.zeros_like(expected) if gradient is None else gradient, expected))
    return max(errors)


@dataclass(frozen=True)
class HostKind:
    """A kind of golden that checks a whole host: the key that only its config has, and `module:function`."""

    key: str
    check: str


HOST_KINDS = {
    "albef": HostKind("bert", "harness.check.golden.albef:check_albef"),
    "blip": HostKind("med", "harness.check.golden.blip:check_blip"),
    "meter": HostKind("roberta", "harness.check.golden.meter:check_meter"),
    "clip": HostKind("guidance", "harness.check.golden.clip:check_clip"),
}


def check_file(path: Path) -> float:
    """Largest absolute error of one golden file of any kind."""
    golden = read_golden(path)
    try:
        if "method" in golden.config:
            return check_method(golden)
        for kind in HOST_KINDS.values():
            if kind.key in golden.config:
                module, _, function = kind.check.partition(":")
                errors: dict[str, float] = getattr(importlib.import_module(module), function)(golden)
                return max(errors.values())
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise HarnessError(f"{path}: its config and tensors do not fit: {type(error).__name__} {reason}") from error
    raise HarnessError(f"{path}: a golden of an unknown kind; known: methods, {', '.join(HOST_KINDS)}")


def lines(paths: Sequence[Path]) -> list[tuple[str, bool]]:
    """One line per file: name, largest absolute error, ok or FAIL. A file that cannot be checked fails, saying why."""
    found = []
    for path in paths:
        try:
            error = check_file(path)
        except HarnessError as reason:
            found.append((f"{path.name}  -  FAIL  {reason}", False))
            continue
        good = error <= TOLERANCE
        found.append((f"{path.name}  {error:.3e}  {'ok' if good else 'FAIL'}", good))
    return found
