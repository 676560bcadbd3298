"""Compare methods with float64 reference vectors that were computed with the authors' released programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from harness.errors import HarnessError
from harness.methods import make_reducer
from harness.models.towers import open_tower
from harness.reduction import Guide, Trace, encode

TOLERANCE = 1e-8


@dataclass(frozen=True)
class Golden:
    """One file: its JSON config and its tensors, named weight.*, input.*, output.*, grad.*."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names begin with `prefix.`, without it."""
        return {name[len(prefix) + 1 :]: value for name, value in self.tensors.items() if name.startswith(prefix + ".")}


def read_golden(path: Path) -> Golden:
    """Read a golden file; HarnessError when it is missing, damaged or has no config."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a safe_open handle is no mapping
        return Golden(path, json.loads(metadata["config"]), tensors)
    except FileNotFoundError as error:
        raise HarnessError(f"{path}: no such golden file") from error
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise HarnessError(
            f"{path}: not a golden file (safetensors with a JSON config in its metadata): {error}"
        ) from error


def method_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a method's config from a golden file's words for them."""
    method = config["method"]
    if method == "elip":
        schedule = {
            "begin": config["begin_layers"],
            "keep": config["keep_ratios"],
            "lookahead": config["lookahead_layers"],
        }
        return {
            "schedule": schedule,
            "vision_weight": config["vision_weight"],
            "keep_tokens": config.get("keep_tokens"),
        }
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
    errors = [difference(tokens, outputs["tokens"])]
    if "expected_size" in inputs:
        sizes = trace.sizes if trace.sizes is not None else tokens.new_ones(tokens.shape[:2])
        errors.append(difference(sizes.unsqueeze(-1), inputs["expected_size"]))
    tokens.square().mean().backward()
    parameters = dict(model.named_parameters())
    for name, expected in golden.part("grad").items():
        gradient = parameters[name].grad
        errors.append(difference(torch.zeros_like(expected) if gradient is None else gradient, expected))
    return max(errors)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; infinite when shapes differ or a value is not finite."""
    if ours.shape != theirs.shape or not bool(ours.isfinite().all()):
        return float("inf")
    return float((ours.detach() - theirs.to(ours.dtype)).abs().max())


def check_file(path: Path) -> float:
    """Largest absolute error of one golden file of any kind that this version knows."""
    golden = read_golden(path)
    if "method" in golden.config:
        try:
            return check_method(golden)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise HarnessError(f"{path}: its config and tensors do not fit: {type(error).__name__} {reason}") from error
    kind = next((kind for kind, key in HOST_KINDS.items() if key(golden.config)), "unknown")
    raise HarnessError(f"{path}: a golden of kind {kind}; this version checks elip, evit and tome")


HOST_KINDS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "albef": lambda config: "bert" in config,
    "blip": lambda config: "med" in config,
    "meter": lambda config: "roberta" in config,
    "clip": lambda config: "guidance" in config,
}


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
