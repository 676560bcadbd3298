"""transformers' CLIP, ViT, DeiT and BLIP as towers, and which tower any of transformers' models has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from harness.hosts.parts.clip_blocks import ClipBlocks
from harness.hosts.parts.towers.dino import DinoV2Tower, DinoV3Tower
from harness.hosts.parts.towers.siglip import Siglip2Tower, SiglipTower
from harness.hosts.parts.towers.tower import PreNormBlock, fused
from harness.hosts.parts.towers.transformers_tower import BlockTower, TransformersTower, model_output
from harness.reduction import Tokens

if TYPE_CHECKING:
    from transformers.modeling_outputs import BaseModelOutputWithPooling


class CLIPTower(ClipBlocks, TransformersTower):
    """Norm before the blocks; the last norm is for the pooled class token only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.layers = self.core.encoder.layers

    def embed(self, images: Tensor) -> Tensor:
        return self.core.pre_layrnorm(super().embed(images))

    def embed_resized(self, images: Tensor) -> Tensor:
        return self.core.pre_layrnorm(super().embed_resized(images))

    def finish(self, tokens: Tensor) -> Tensor:
        return tokens

    def normed(self, tokens: Tokens) -> Tensor:
        normed: Tensor = self.core.post_layernorm(tokens.states)
        return normed

    def output(self, tokens: Tokens) -> BaseModelOutputWithPooling:
        pooled = self.core.post_layernorm(tokens.states[:, 0])
        return model_output(tokens.states, pooled)


class ViTTower(BlockTower):
    """ViT: a pooler on the class token, where the model has one."""

    def _pooler(self, states: Tensor) -> Tensor | None:
        return None if self.core.pooler is None else self.core.pooler(states)

    def pooled(self, tokens: Tokens) -> Tensor:
        found = self._pooler(tokens.states)
        return tokens.states[:, 0] if found is None else found


class DeiTTower(ViTTower):
    """DeiT: a class and a distillation token."""

    prefix = 2


class BLIPTower(BlockTower):
    """BLIP: fused qkv; the last norm on all tokens, and once more on the pooled one."""

    def _pooler(self, states: Tensor) -> Tensor | None:
        return self.core.post_layernorm(states[:, 0])

    def _parts(self, block: Any) -> PreNormBlock:
        attention = block.self_attn
        return PreNormBlock(
            lambda tokens: block.layer_norm1(tokens),
            fused(attention),
            lambda attended, _: attention.projection(attended),
            lambda tokens: block.layer_norm2(tokens),
            lambda tokens: block.mlp(tokens),
            dropout=lambda: float(attention.dropout.p),
        )


# By the class's own name or that of one it is derived from: releases of transformers differ in which there are.
TOWERS: dict[str, type[TransformersTower]] = {
    "CLIPVisionModel": CLIPTower,
    "CLIPVisionTransformer": CLIPTower,
    "BlipVisionModel": BLIPTower,
    "SiglipVisionModel": SiglipTower,
    "SiglipVisionTransformer": SiglipTower,
    "Siglip2VisionModel": Siglip2Tower,
    "Siglip2VisionTransformer": Siglip2Tower,
    "ViTModel": ViTTower,
    "DeiTModel": DeiTTower,
    "Dinov2Model": DinoV2Tower,
    "Dinov2WithRegistersModel": DinoV2Tower,
    "DINOv3ViTModel": DinoV3Tower,
}


def transformers_kind(model: nn.Module) -> type[TransformersTower] | None:
    """The tower of a model of transformers, None where it is none of these."""
    for kind in type(model).__mro__:
        if kind.__module__.startswith("transformers.") and kind.__name__ in TOWERS:
            return TOWERS[kind.__name__]
    return None
