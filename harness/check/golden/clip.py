"""CLIP's reference vectors: the visual tower of open_clip, reduced under the guidance of a text feature, and dense."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.check.golden.file import AS_READ, Golden, difference, elip_settings
from harness.hosts.clip.model import Clip, ClipConfig
from harness.hosts.parts.towers import open_tower
from harness.hosts.weights.released import load_released
from harness.reduction import Guide, encode
from harness.reduction.budget import make_reducer


def clip_config(config: dict[str, Any], weights: dict[str, Tensor]) -> ClipConfig:
    """The sizes of a golden file's visual tower; the file has no text side, so that one gets no blocks."""
    vision = config["vision"]
    return ClipConfig(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        width=vision["width"],
        depth=vision["layers"],
        heads=vision["heads"],
        mlp_ratio=weights["transformer.resblocks.0.mlp.c_fc.bias"].numel() // vision["width"],
        vision_eps=vision.get("norm_eps", 1e-5),
        activation=vision["activation"],
        text_width=vision["output_dim"],
        text_layers=0,
        text_heads=1,
        projection=vision["output_dim"],
        vocab_size=1,
        text_length=1,
        end_id=0,
        **AS_READ,
    )


def check_clip(golden: Golden) -> dict[str, float]:
    """Largest absolute error of each output."""
    inputs, weights = golden.part("input"), golden.part("weight")
    model = Clip(clip_config(golden.config, weights)).double().eval()
    load_released(model, {f"visual.{name}": tensor for name, tensor in weights.items()}, golden.path.name)
    with torch.no_grad():
        tower = open_tower(model.vision)
        reducer = make_reducer("elip", tower.shape, settings=clip_elip(golden.config["elip"], tower.shape.patches))
        guide = Guide(model.to_vision(inputs["text_feature"]))
        image = encode(tower, reducer, inputs["image"], guide)
        ours = {
            "tokens": model.normed(image)[:, 1:],
            "pooled": model.image_feature(image),
            "pooled_dense": model.image_feature(model.encode_image(inputs["image"])),
        }
    return {name: difference(ours[name], expected) for name, expected in golden.part("output").items()}


def clip_elip(config: dict[str, Any], patches: int) -> dict[str, Any]:
    """The settings of ELIP's config; where the file names no counts, K = int((n0 + 1) * keep) if it says so."""
    settings = elip_settings(config)
    if settings["keep_tokens"] is None and config.get("keep_base") == "patches+1":
        settings["keep_tokens"] = [int((patches + 1) * keep) for keep in config["keep_ratios"]]
    return settings
