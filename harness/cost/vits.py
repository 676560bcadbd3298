"""From a timm name to a ViT, with or without data: what `cost --model NAME` measures."""

from __future__ import annotations

import difflib

import torch
from torch import nn

from harness.kit.errors import HarnessError
from harness.kit.registry import models, unknown

EXPECTED = "expected a timm VisionTransformer, such as vit_base_patch16_224"


def build_vit(name: str, image_size: int | None = None, device: str | torch.device = "meta") -> nn.Module:
    """A timm VisionTransformer by its timm name, with random weights, for square images of `image_size` px.

    On "meta" it has shapes only and is made in an instant. Raises HarnessError for a name timm does not
    have, a model that is no VisionTransformer, and an image size that its patches do not divide.
    """
    import timm
    from timm.models.vision_transformer import VisionTransformer

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(["*vit*", "*deit*"]), n=6, cutoff=0.6)
        raise unknown("model", name, [*models.names(), *near, "any timm VisionTransformer"])
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except (RuntimeError, NotImplementedError) as error:
        raise HarnessError(f"model {name} cannot be built without data ({error}): {EXPECTED}") from error
    if not isinstance(model, VisionTransformer):
        raise HarnessError(f"model {name} is a {type(model).__name__}: {EXPECTED}")
    if image_size is None and str(device) == "meta":
        return model
    size = image_size if image_size is not None else model.patch_embed.img_size[0]
    check_image_size(size, model.patch_embed.feat_ratio(as_scalar=False))
    with torch.device(device):
        built: nn.Module = timm.create_model(name, img_size=size)
    return built


def check_image_size(size: int, patch: tuple[int, int]) -> None:
    """HarnessError unless patches of (height, width) pixels tile a square image of `size` pixels."""
    if size < 1 or size % patch[0] or size % patch[1]:
        near = max(round(size / patch[0]), 1) * patch[0]
        raise HarnessError(f"image size {size}: expected a multiple of the patch size {patch[0]}, such as {near}")
