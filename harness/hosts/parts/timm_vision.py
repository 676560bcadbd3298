"""The ViT that ALBEF and BLIP share, timm's, and its names in released files."""

from __future__ import annotations

import re
from functools import partial

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from harness.hosts.host import HostConfig
from harness.hosts.weights.released import NotAWeight, Translation


def vision_transformer(config: HostConfig) -> VisionTransformer:
    """The ViT of ALBEF and BLIP: timm's, with a class token and a final norm on all tokens."""
    return VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=config.vision_eps),
    )


def timm_vision(name: str) -> Translation:
    """What a tensor of timm's ViT or of DeiT is in the tower of `vision_transformer`."""
    if name.startswith("head."):
        return NotAWeight("the classifier of the pre-trained ViT")
    known = (
        r"cls_token|pos_embed|(patch_embed\.proj|norm|blocks\.\d+\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc[12]))\.\w+"
    )
    return f"vision.{name}" if re.fullmatch(known, name) else None
