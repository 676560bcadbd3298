"""timm's towers: VisionTransformer, Eva (EVA-02, DINOv3 and other rotary ViTs) and Beit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from timm.layers import Format
from timm.layers.attention import Attention, AttentionRope
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Beit
from timm.models.beit import Block as BeitBlock
from timm.models.eva import Eva, EvaAttention, EvaBlock
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from harness.hosts.parts.plain_modules import is_plain
from harness.hosts.parts.towers.places import RelativeTower, RotaryTower
from harness.hosts.parts.towers.tower import Fused, PreNormBlock, PreNormTower, Projection, Separate, fused
from harness.kit.errors import HarnessError
from harness.reduction import StackShape, Tokens


class TimmTower(PreNormTower):
    """timm's VisionTransformer of plain `Block`s; class, register and distillation tokens are prefix tokens."""

    package = "timm"
    family: type[nn.Module] = VisionTransformer
    block_kinds: tuple[type[nn.Module], ...] = (Block,)
    attention_kinds: tuple[type[nn.Module], ...] = (Attention,)

    def __init__(self, model: Any) -> None:
        _check(model, self.family, self.block_kinds, self.attention_kinds)
        embedding = model.patch_embed
        shape = StackShape(
            depth=len(model.blocks),
            patches=embedding.num_patches,
            prefix=model.num_prefix_tokens,
            width=model.embed_dim,
            class_token=model.cls_token is not None,
            name=type(model).__name__,
            heads=model.blocks[0].attn.num_heads,
            grid=embedding.grid_size,
        )
        first = next(layer for layer in embedding.modules() if isinstance(layer, nn.Conv2d))
        super().__init__(model, shape, (first.in_channels, *embedding.img_size))
        self.own: Any = model
        self.blocks = [_parts(block, self._dropping(block)) for block in model.blocks]
        # Views of the same parameters that take images of any size.
        self.dynamic, self.dynamic_patches = copy.copy(model), copy.copy(embedding)
        self.dynamic.dynamic_img_size = True
        self.dynamic_patches.strict_img_size, self.dynamic_patches.flatten = False, False
        self.dynamic_patches.output_fmt = Format.NHWC

    @staticmethod
    def _dropping(block: Any) -> Callable[[], float]:
        return lambda: float(block.attn.attn_drop.p)

    def embed(self, images: Tensor) -> Tensor:
        return self._embed(self.own, self.own.patch_embed(images))

    def embed_resized(self, images: Tensor) -> Tensor:
        """timm's own way for dynamic image sizes."""
        return self._embed(self.dynamic, self.dynamic_patches(images))

    def _embed(self, model: Any, patches: Tensor) -> Tensor:
        return model.norm_pre(model.patch_drop(model._pos_embed(patches)))

    def finish(self, tokens: Tensor) -> Tensor:
        return self.own.norm(tokens)

    def output(self, tokens: Tokens) -> Tensor:
        """forward_head of the tokens: logits (B, classes), or pooled features without a head.

        Where the model averages its tokens, each counts by its size.
        """
        return self._head(tokens, pre_logits=False)

    def pooled(self, tokens: Tokens) -> Tensor:
        found = self._head(tokens, pre_logits=True)
        return found if found.dim() == 2 else tokens.mean(tokens.prefix)

    def _head(self, tokens: Tokens, *, pre_logits: bool) -> Tensor:
        model = self.own
        averaging = model.global_pool in ("avg", "avgmax", "max", "map")
        if (tokens.sizes is None and tokens.mask is None) or not averaging:
            return model.forward_head(tokens.states, pre_logits=pre_logits)
        skip = self._unpooled(tokens)
        if model.global_pool == "avg":
            pooled = tokens.mean(skip)
        elif model.global_pool == "map":
            pooled = model.attn_pool(tokens.states[:, skip:], attn_mask=tokens.log_sizes(skip)[:, None, None])
        else:
            raise HarnessError(
                f"{type(model).__name__} pools by {model.global_pool!r}, which does not know what merged tokens stand "
                "for: use a tower that pools by its class token, the mean or attention"
            )
        features = model.head_drop(model.fc_norm(pooled))
        return features if pre_logits else model.head(features)

    def _unpooled(self, tokens: Tokens) -> int:
        """How many tokens at the front its pooling leaves out."""
        return 0 if self.own.pool_include_prefix else tokens.prefix

    @property
    def patch_projection(self) -> nn.Module:
        projection: nn.Module = self.own.patch_embed.proj
        return projection

    def by_parts(self) -> Iterable[nn.Module]:
        return [block.attn for block in self.own.blocks]

    @property
    def recomputes(self) -> bool:
        return bool(self.own.grad_checkpointing)

    def takes(self, height: int, width: int) -> bool:
        embedding: Any = self.own.patch_embed
        rows, columns = embedding.patch_size
        if embedding.strict_img_size and not getattr(self.own, "dynamic_img_size", False):
            return super().takes(height, width)
        return min(height, width) > 0 and (embedding.dynamic_img_pad or not (height % rows or width % columns))

    def sized_for(self, images: Tensor) -> StackShape:
        embedding = self.own.patch_embed
        if embedding.strict_img_size and not getattr(self.own, "dynamic_img_size", False):
            return self.shape
        rows, columns = embedding.dynamic_feat_size(tuple(images.shape[-2:]))
        return self.gridded(int(rows), int(columns))


class EvaTower(RotaryTower, TimmTower):
    """timm's Eva: positions by a table, by rotation, or both."""

    family, block_kinds, attention_kinds = Eva, (EvaBlock,), (EvaAttention, AttentionRope)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        attention = model.blocks[0].attn
        if getattr(model.patch_drop, "prob", 0.0) > 0:
            raise HarnessError(f"{type(model).__name__} drops patches in training (patch_drop_rate); build it without")
        if getattr(attention, "num_kv_groups", 1) > 1:
            raise HarnessError(f"{type(model).__name__} with grouped keys: only as many keys as queries can be reduced")
        self.half = bool(getattr(attention, "rotate_half", False))

    def _embed(self, model: Any, patches: Tensor) -> Tensor:
        tokens, rotation = model._pos_embed(patches)
        if rotation is None:
            channels, count = tokens.shape[-1] // self.shape.heads, tokens.shape[1] - self.shape.prefix
            rotation = torch.cat([tokens.new_zeros(count, channels), tokens.new_ones(count, channels)], dim=-1)
        sines, cosines = rotation.chunk(2, dim=-1)
        self.angles = cosines, sines
        return model.norm_pre(tokens)

    def _unpooled(self, tokens: Tokens) -> int:
        return 0 if self.own.global_pool == "map" else tokens.prefix


class BeitTower(RelativeTower, TimmTower):
    """timm's Beit: a bias by relative position, each block's own or one for all."""

    family, block_kinds = Beit, (BeitBlock,)
    attention_kinds = (BeitAttention,)

    def _embed(self, model: Any, patches: Tensor) -> Tensor:
        tokens = torch.cat([model.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        if model.pos_embed is not None:
            tokens = tokens + model.pos_embed
        return model.pos_drop(tokens)

    def embed_resized(self, images: Tensor) -> Tensor:
        raise HarnessError(f"{self.shape.name} opens images of its own size alone: choose another method or tower")

    def pair_bias(self, block: int) -> Tensor | None:
        own, shared = self.own.blocks[block].attn, self.own.rel_pos_bias
        found = own._get_rel_pos_bias() if own.relative_position_bias_table is not None else None
        if shared is not None:
            found = shared() if found is None else found + shared()
        return None if found is None else found.view(found.shape[-3:])

    def _unpooled(self, tokens: Tokens) -> int:
        return tokens.prefix


def _check(
    model: Any, family: type[Any], blocks: tuple[type[nn.Module], ...], attentions: tuple[type[nn.Module], ...]
) -> None:
    """HarnessError, naming what stands in the way, for a model whose forward is not that of its family."""
    for block in model.blocks:
        if type(block) not in blocks or type(block.attn) not in attentions:
            kind = type(block).__name__ if type(block) not in blocks else type(block.attn).__name__
            raise HarnessError(
                f"{type(model).__name__} with {kind} blocks: only sequential pre-norm blocks (timm's Block with "
                "Attention) can be reduced"
            )
    for name in ("forward_features", "forward"):
        if getattr(type(model), name) is not getattr(family, name):
            raise HarnessError(
                f"{type(model).__name__}: its own {name} cannot be opened; use a plain {family.__name__}"
            )


def _parts(block: Any, dropout: Callable[[], float]) -> PreNormBlock:
    """A timm block by its parts, whichever names it has for layer scale and projections."""
    attention = block.attn

    def out(attended: Tensor, normed: Callable[[], Tensor]) -> Tensor:
        inner = getattr(attention, "norm", None)
        attended = attended if inner is None else inner(attended)
        if getattr(attention, "gate", None) is not None:
            attended = attended * attention.gate(normed()).sigmoid()
        return attention.proj_drop(attention.proj(attended))

    return PreNormBlock(
        lambda tokens: block.norm1(tokens),
        _projection(attention),
        out,
        lambda tokens: block.norm2(tokens),
        lambda tokens: block.mlp(tokens),
        lambda values: block.drop_path1(_scaled(block, 1, values)),
        lambda values: block.drop_path2(_scaled(block, 2, values)),
        getattr(attention, "q_norm", nn.Identity()),
        getattr(attention, "k_norm", nn.Identity()),
        dropout,
    )


def _scaled(block: Any, half: int, values: Tensor) -> Tensor:
    """Values (B, N, D) by the block's layer scale, a module `ls1` or a parameter `gamma_1`, where it has one."""
    module = getattr(block, f"ls{half}", None)
    if module is not None:
        return module(values)
    gamma = getattr(block, f"gamma_{half}", None)
    return values if gamma is None else gamma * values


def _projection(attention: Any) -> Projection:
    """q, k and v of timm's attentions: one Linear, one with biases beside it, or three."""
    if attention.qkv is None:
        return Separate(attention, ("q_proj", "k_proj", "v_proj"))
    if getattr(attention, "q_bias", None) is None:
        return fused(attention)

    apart = bool(attention.qkv_bias_separate)

    def bias() -> Tensor:
        return torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))

    def product(tokens: Tensor) -> Tensor:
        if apart:
            return attention.qkv(tokens) + bias()
        return nn.functional.linear(tokens, attention.qkv.weight, bias())  # as timm has it, which calls no module

    return Fused(product, lambda: attention.qkv.weight, bias, lambda: not apart or is_plain(attention.qkv), apart)
