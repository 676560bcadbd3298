"""transformers' towers: CLIP, BLIP, SigLIP and SigLIP 2, ViT and DeiT, DINOv2 (with registers) and DINOv3.

Releases of transformers 5 name the parts of a block differently (`attention.attention.query` and `attention.q_proj`,
`encoder.layer` and `layers`); both are read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from harness.hosts.parts.clip_blocks import ClipBlocks
from harness.hosts.parts.towers.places import RotaryTower
from harness.hosts.parts.towers.tower import PreNormBlock, PreNormTower, Projection, VisionTower, fused, separate
from harness.kit.errors import HarnessError
from harness.reduction import StackShape, Tokens, TokenState


class TransformersTower(VisionTower):
    """What transformers' vision models share. `resizes`: they interpolate their positions where they are asked to."""

    class_token = True
    prefix = 1

    def __init__(self, model: nn.Module) -> None:
        # Up to 5.17 a wrapper `vision_model` stands between CLIP's, BLIP's and SigLIP's models and their parts.
        self.core: Any = getattr(model, "vision_model", model)
        config: Any = self.core.config
        height, width = _pair(config.image_size)
        rows, columns = _pair(config.patch_size)
        grid = height // rows, width // columns
        shape = StackShape(
            depth=config.num_hidden_layers,
            patches=grid[0] * grid[1],
            prefix=self.prefix,
            width=config.hidden_size,
            class_token=self.class_token,
            name=type(model).__name__,
            heads=config.num_attention_heads,
            grid=grid,
        )
        super().__init__(model, shape, (getattr(config, "num_channels", 3), height, width))

    @property
    def patch_projection(self) -> nn.Module:
        projection: nn.Module = self.core.embeddings.patch_embedding
        return projection

    @property
    def recomputes(self) -> bool:
        return any(bool(getattr(part, "gradient_checkpointing", False)) for part in self.core.modules())

    def pooled(self, tokens: Tokens) -> Tensor:
        found: Tensor | None = self.output(tokens).pooler_output
        return tokens.mean(tokens.prefix) if found is None else found

    def sized_for(self, images: Tensor) -> StackShape:
        rows, columns = _pair(self.core.config.patch_size)
        return self.gridded(int(images.shape[-2]) // rows, int(images.shape[-1]) // columns)

    def embed(self, images: Tensor) -> Tensor:
        return self.core.embeddings(images)

    def embed_resized(self, images: Tensor) -> Tensor:
        return self.core.embeddings(images, interpolate_pos_encoding=True)


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
        return BaseModelOutputWithPooling(last_hidden_state=tokens.states, pooler_output=pooled)


class SiglipTower(ClipBlocks, TransformersTower):
    """No class token; a probe attends to the tokens, to each as often as it has patches."""

    class_token, prefix = False, 0

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.layers = self.core.encoder.layers

    def finish(self, tokens: Tensor) -> Tensor:
        return self.core.post_layernorm(tokens)

    def output(self, tokens: Tokens) -> BaseModelOutputWithPooling:
        pooled = self._attended(tokens) if self.core.use_head else None
        return BaseModelOutputWithPooling(last_hidden_state=tokens.states, pooler_output=pooled)

    def _attended(self, tokens: Tokens) -> Tensor:
        head, states = self.core.head, tokens.states
        if tokens.sizes is None and tokens.mask is None:
            return head(states)
        logs = tokens.log_sizes().repeat_interleave(head.attention.num_heads, dim=0)[:, None]
        probe = head.probe.repeat(len(states), 1, 1)
        found = head.attention(probe, states, states, attn_mask=logs, need_weights=False)[0]
        return (found + head.mlp(head.layernorm(found)))[:, 0]


class Siglip2Tower(SiglipTower):
    """SigLIP 2 of flexible shapes: images are patches already, some of them padding, each image of its own grid.

    `shapes`: rows and columns of each image's patches (B, 2), where not those of a square one. Images (B, C, H, W) are
    cut into patches as the processor does.
    """

    def __init__(self, model: nn.Module) -> None:
        core: Any = getattr(model, "vision_model", model)
        side = int(core.config.num_patches**0.5)
        self.patch = int(core.config.patch_size)
        shape = StackShape(
            depth=core.config.num_hidden_layers,
            patches=side * side,
            prefix=0,
            width=core.config.hidden_size,
            class_token=False,
            name=type(model).__name__,
            heads=core.config.num_attention_heads,
            grid=(side, side),
        )
        images = (core.config.num_channels, side * self.patch, side * self.patch)
        VisionTower.__init__(self, model, shape, images)
        self.core, self.layers = core, core.encoder.layers
        self.shapes: Tensor | None = None
        self.standing: Tensor | None = None

    def takes(self, height: int, width: int) -> bool:
        return height >= self.patch and width >= self.patch and not (height % self.patch or width % self.patch)

    def sized_for(self, images: Tensor) -> StackShape:
        if images.dim() == 3:
            return self.counted(int(images.shape[1]))
        return self.gridded(int(images.shape[-2] // self.patch), int(images.shape[-1] // self.patch))

    def counted(self, patches: int) -> StackShape:
        """The tower's shape with so many patches, of whatever grid."""
        return self.shape if patches == self.shape.patches else replace(self.shape, patches=patches, grid=None)

    def open(self, inputs: Tensor) -> TokenState:
        """Images (B, C, H, W), or patches (B, N, C P P) of the grids `shapes`, of which `standing` (B, N) are real."""
        if inputs.dim() == 4:
            return super().open(inputs)
        if self.shapes is None:
            raise HarnessError(f"{self.shape.name}: patches without their spatial_shapes; give them")
        mask = None if self.standing is None or bool(self.standing.all()) else self.standing.bool()
        return TokenState(self.core.embeddings(inputs, self.shapes), prefix=0, mask=mask)

    def embed(self, images: Tensor) -> Tensor:
        side = self.patch
        rows, columns = images.shape[-2] // side, images.shape[-1] // side
        cut = images.unflatten(3, (columns, side)).unflatten(2, (rows, side))
        patches = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
        # On the CPU, where the grids' sizes are looked at.
        grids = torch.tensor([[rows, columns]] * len(images), device="cpu" if images.is_meta else images.device)
        return self.core.embeddings(patches, grids)

    embed_resized = embed


class BlockTower(PreNormTower, TransformersTower):
    """What ViT, DeiT and the DINOs share: class token, one norm on all tokens at the end."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.norm: Any = _first(self.core, "layernorm", "norm", "post_layernorm")
        self.blocks = [self._parts(block) for block in _layers(self.core)]

    def finish(self, tokens: Tensor) -> Tensor:
        return self.norm(tokens)

    def output(self, tokens: Tokens) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=tokens.states, pooler_output=self._pooler(tokens.states))

    def _pooler(self, states: Tensor) -> Tensor | None:
        return states[:, 0, :]

    def _parts(self, block: Any) -> PreNormBlock:
        attention = block.attention
        inner = getattr(attention, "attention", attention)
        rate = _first(inner, "attention_dropout", "dropout_prob", "dropout")
        drop = getattr(block, "drop_path", nn.Identity())
        scales = [getattr(block, f"layer_scale{half}", nn.Identity()) for half in (1, 2)]
        hidden = getattr(block, "dropout", nn.Identity())
        return PreNormBlock(
            _first(block, "layernorm_before", "norm1"),
            _projection(inner),
            _output(attention),
            _first(block, "layernorm_after", "norm2"),
            _mlp(block),
            lambda values: drop(scales[0](hidden(values))),
            lambda values: drop(scales[1](hidden(values))),
            dropout=lambda: float(getattr(rate, "p", rate)),
        )


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


class DinoV2Tower(BlockTower):
    """DINOv2, whose positions are interpolated to any size; register tokens are prefix tokens."""

    def __init__(self, model: nn.Module) -> None:
        self.prefix = 1 + int(getattr(model.config, "num_register_tokens", 0))  # type: ignore[union-attr, arg-type]
        super().__init__(model)

    def takes(self, height: int, width: int) -> bool:
        rows, columns = _pair(self.core.config.patch_size)
        return height >= rows and width >= columns

    def embed_resized(self, images: Tensor) -> Tensor:
        return self.embed(images)


class DinoV3Tower(RotaryTower, DinoV2Tower):
    """DINOv3: rotary positions of the patches, computed for each image size."""

    half = True

    def embed(self, images: Tensor) -> Tensor:
        self.angles = self._angles(images)
        return self.core.embeddings(images)

    def _angles(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (n0, d) of an image's patches; in training their places are drawn as the model draws them.

        The model's own `rope_embeddings` keeps places in a cache of the process, where counting costs on tensors
        without data would leave such for the next pass.
        """
        rope, config = self.core.rope_embeddings, self.core.config
        axes = []
        for pixels, patch in zip(images.shape[-2:], _pair(config.patch_size), strict=True):
            count = int(pixels) // patch
            axes.append(torch.arange(0.5, count, dtype=torch.float32, device=images.device) / count)
        places = 2.0 * torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 1) - 1.0
        if rope.training:
            drawn = ((config.pos_embed_jitter, (1, 2)), (config.pos_embed_rescale, (1,)))
            if config.pos_embed_shift is not None:
                shift = config.pos_embed_shift
                places = places + torch.empty((1, 2), device=images.device).uniform_(-shift, shift)
            for most, shape in drawn:
                if most is not None:
                    most = math.log(most)
                    places = places * torch.empty(shape, device=images.device).uniform_(-most, most).exp()
        angles = (2 * math.pi * places[:, :, None] * rope.inv_freq[None, None, :]).flatten(1, 2).tile(2)
        return angles.cos().to(images.dtype), angles.sin().to(images.dtype)


class BLIPTower(BlockTower):
    """BLIP: fused qkv; the last norm on all tokens, and once more on the pooled one."""

    def _pooler(self, states: Tensor) -> Tensor | None:
        return self.core.post_layernorm(states[:, 0])

    def _parts(self, block: Any) -> PreNormBlock:
        attention = block.self_attn
        return PreNormBlock(
            block.layer_norm1,
            fused(attention.qkv),
            lambda attended, _: attention.projection(attended),
            block.layer_norm2,
            block.mlp,
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


def _pair(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _first(module: Any, *names: str) -> Any:
    """The first of some parts that a module has."""
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)
    raise HarnessError(f"{type(module).__name__} has no {' or '.join(names)}: this release of transformers is unknown")


def _layers(core: Any) -> Sequence[nn.Module]:
    """The blocks, wherever a release keeps them."""
    holder = next((getattr(core, name) for name in ("encoder", "model") if hasattr(core, name)), core)
    return list(_first(holder, "layers", "layer"))


def _projection(attention: Any) -> Projection:
    names = ("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")
    q, k, v = (_first(attention, *pair) for pair in names)
    return separate(q, k, v)


def _output(attention: Any) -> Callable[[Tensor, Callable[[], Tensor]], Tensor]:
    if hasattr(attention, "o_proj"):
        return lambda attended, _: attention.o_proj(attended)
    return lambda attended, _: attention.output.dropout(attention.output.dense(attended))


def _mlp(block: Any) -> Callable[[Tensor], Tensor]:
    if hasattr(block, "mlp"):
        return block.mlp
    return lambda values: block.output.dropout(block.output.dense(block.intermediate(values)))
