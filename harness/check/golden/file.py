"""A golden file: float64 reference vectors that were computed with the authors' released programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.kit.errors import HarnessError
from harness.reduction import Tokens, geometric

# A golden file's images are as the model reads them.
AS_READ: dict[str, Any] = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


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
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise HarnessError(
            f"{path}: not a golden file (safetensors with a JSON config in its metadata): {error}"
        ) from error


def host_sizes(config: dict[str, Any], text: str) -> dict[str, Any]:
    """The sizes of a golden file's ViT and of its BERT, described under `text`, as ALBEF's and BLIP's configs say them.

    How many of the BERT's layers do what is left to the host.
    """
    bert = config[text]
    return {
        **vit_sizes(config["vision"]),
        "vocab_size": bert["vocab_size"],
        "text_length": bert["max_position_embeddings"],
        "text_heads": bert["num_attention_heads"],
        "text_mlp": bert["intermediate_size"],
        "text_eps": bert["layer_norm_eps"],
        "projection": config["projection_dim"],
    }


def vit_sizes(config: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a golden file's ViT in timm's words, as a host's config says them; pixels are taken as they are."""
    return {
        "image_size": config["img_size"],
        "patch_size": config["patch_size"],
        "width": config["embed_dim"],
        "depth": config["depth"],
        "heads": config["num_heads"],
        "mlp_ratio": config["mlp_ratio"],
        "vision_eps": config["norm_eps"],
        **AS_READ,
    }


def patches_of(config: dict[str, Any]) -> int:
    """How many patches a golden file's ViT cuts an image into."""
    size = config["img_size"]
    height, width = size if isinstance(size, list) else (size, size)
    return int(height // config["patch_size"] * (width // config["patch_size"]))


def divisor(weight: float) -> float:
    """What a loss of a method is set to weigh, and divided by to compare it without its weight: a weight of 0 would
    leave nothing to compare.
    """
    return weight or 1.0


def elip_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of ELIP's config from a golden file's words for them."""
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


def staged_settings(config: dict[str, Any], key: str = "keep_rate", counts: bool = True) -> dict[str, Any]:
    """The stages that the files of Haurum et al. name: one rate for all, or a list: of counts, or of shares of n0."""
    begin, rates = config["reduction_loc"], config[key]
    if len(rates) == 1:
        return {"schedule": {"begin": begin, "keep": geometric(rates[0], len(begin))}}
    if counts:
        return {"schedule": {"begin": begin, "keep": [1.0] * len(begin)}, "keep_tokens": rates}
    return {"schedule": {"begin": begin, "keep": rates}}


def merges_per_block(config: dict[str, Any]) -> dict[str, Any]:
    """`r` is a number, a list of one a block, or a pair: a number and an inflection (negative, or with a fraction)."""
    r = config.get("r_per_layer", config.get("r"))
    if isinstance(r, list) and len(r) == 2 and "r_per_layer" not in config and (r[1] < 0 or isinstance(r[1], float)):
        return {"r": r[0], "inflect": r[1]}
    return {"r_per_block" if isinstance(r, list) else "r": r}


def difference(ours: Tensor | Tokens, theirs: Tensor) -> float:
    """Largest absolute difference, of tokens that of their states; infinite when shapes differ or one is not finite."""
    if isinstance(ours, Tokens):
        ours = ours.states
    if ours.shape != theirs.shape or not bool(ours.isfinite().all()):
        return float("inf")
    if not ours.numel():
        return 0.0
    return float((ours.detach() - theirs.to(ours.dtype)).abs().max())
