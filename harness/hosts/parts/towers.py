"""Vision towers that can be opened block by block: timm's VisionTransformer, transformers' CLIP and BLIP ViTs.

A tower is a view of a model that it does not copy or change. Shapes: B images, N tokens (prefix first),
D channels, H heads, d = D / H. Blocks are sequential and pre-norm; anything else is refused by name.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import replace
from typing import Any

from timm.layers import Format
from timm.layers.attention import Attention as TimmAttention
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BlipVisionModel, CLIPVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from harness.hosts.parts.clip_blocks import ClipBlocks
from harness.kit.errors import HarnessError
from harness.reduction import Stack, StackShape, Tokens, TokenState


class VisionTower(Stack):
    """One loop's view of a ViT: open, then per block `attend` and `feed_forward`, then close and `output`."""

    def __init__(self, model: nn.Module, shape: StackShape) -> None:
        super().__init__(shape)
        self.model = model

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> tokens (B, N, D) entering block 0."""

    @abstractmethod
    def finish(self, tokens: Tensor) -> Tensor:
        """The final norm, where the model applies it to all tokens."""

    def normed(self, tokens: Tokens) -> Tensor:
        """The states of what left the tower, (B, N, D), after the model's last norm, which `finish` may leave out."""
        return tokens.states

    @abstractmethod
    def output(self, tokens: Tokens) -> Any:
        """What the model's own forward returns, from what left the tower."""

    @abstractmethod
    def embed_resized(self, images: Tensor) -> Tensor:
        """The same for images of another size, with the position table interpolated as the model does it."""

    @property
    @abstractmethod
    def patch_projection(self) -> nn.Module:
        """The convolution that makes a token of a patch."""

    @property
    def recomputes(self) -> bool:
        """Whether the model asks for gradient checkpointing."""
        return False

    def patches_of(self, images: Tensor) -> int:
        """How many patches images (B, C, H, W) have, where the model takes other sizes than its own."""
        return self.shape.patches

    def sized(self, patches: int) -> StackShape:
        """The tower's shape with another number of patches."""
        return replace(self.shape, patches=patches, grid=None)

    def open(self, inputs: Tensor) -> TokenState:
        return TokenState(self.embed(inputs), prefix=self.shape.prefix)

    def open_resized(self, inputs: Tensor) -> TokenState:
        return TokenState(self.embed_resized(inputs), prefix=self.shape.prefix)

    def close(self, state: TokenState) -> Tokens:
        return state.left(self.finish(state.tokens))


class TimmTower(VisionTower):
    """timm VisionTransformer of plain `Block`s; class, register and distillation tokens are prefix tokens."""

    model: VisionTransformer

    def __init__(self, model: VisionTransformer) -> None:
        for block in model.blocks:
            if type(block) is not TimmBlock or type(block.attn) is not TimmAttention:
                kind = type(block).__name__ if type(block) is not TimmBlock else type(block.attn).__name__
                raise HarnessError(
                    f"{type(model).__name__} with {kind} blocks: only sequential pre-norm blocks (timm's Block with "
                    "Attention) can be reduced"
                )
        if type(model).forward_features is not VisionTransformer.forward_features:
            raise HarnessError(
                f"{type(model).__name__}: its own forward_features cannot be opened; use a plain VisionTransformer"
            )
        shape = StackShape(
            depth=len(model.blocks),
            patches=model.patch_embed.num_patches,
            prefix=model.num_prefix_tokens,
            width=model.embed_dim,
            class_token=model.cls_token is not None,
            name=type(model).__name__,
            heads=model.blocks[0].attn.num_heads,
            grid=model.patch_embed.grid_size,
        )
        super().__init__(model, shape)
        # Views of the same parameters that take images of any size.
        self.dynamic, self.dynamic_patches = copy.copy(model), copy.copy(model.patch_embed)
        self.dynamic.dynamic_img_size = True
        self.dynamic_patches.strict_img_size, self.dynamic_patches.flatten = False, False
        self.dynamic_patches.output_fmt = Format.NHWC

    def embed(self, images: Tensor) -> Tensor:
        model = self.model
        return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))

    def embed_resized(self, images: Tensor) -> Tensor:
        """timm's own way for dynamic image sizes."""
        model = self.dynamic
        return model.norm_pre(model.patch_drop(model._pos_embed(self.dynamic_patches(images))))

    def queries_keys_values(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layer = self.model.blocks[block]
        q, k, v = (self.heads_first(part) for part in layer.attn.qkv(layer.norm1(tokens)).chunk(3, dim=-1))
        return layer.attn.q_norm(q), layer.attn.k_norm(k), v

    def query_and_keys(self, block: int, tokens: Tensor, queries: int = 1) -> tuple[Tensor, Tensor]:
        layer = self.model.blocks[block]
        q, k = _query_and_keys(layer.attn.qkv, layer.norm1(tokens), queries)
        return layer.attn.q_norm(self.heads_first(q)), layer.attn.k_norm(self.heads_first(k))

    def values(self, block: int, tokens: Tensor) -> Tensor:
        layer = self.model.blocks[block]
        return self.heads_first(_values(layer.attn.qkv, layer.norm1(tokens)))

    def close_attention(self, block: int, tokens: Tensor, attended: Tensor) -> Tensor:
        layer = self.model.blocks[block]
        attended = layer.attn.norm(attended)
        gate = getattr(layer.attn, "gate", None)
        if gate is not None:
            attended = attended * gate(layer.norm1(tokens)).sigmoid()
        projected = layer.attn.proj_drop(layer.attn.proj(attended))
        return tokens + layer.drop_path1(layer.ls1(projected))

    def mlp(self, block: int, tokens: Tensor) -> Tensor:
        layer = self.model.blocks[block]
        return tokens + layer.drop_path2(layer.ls2(layer.mlp(layer.norm2(tokens))))

    def finish(self, tokens: Tensor) -> Tensor:
        return self.model.norm(tokens)

    def output(self, tokens: Tokens) -> Tensor:
        """forward_head of the tokens: logits (B, classes), or pooled features without a head.

        Where the model averages its tokens, each counts by its size.
        """
        model = self.model
        if (tokens.sizes is None and tokens.mask is None) or model.global_pool not in ("avg", "avgmax", "max", "map"):
            return model.forward_head(tokens.states)
        skip = 0 if model.pool_include_prefix else tokens.prefix
        if model.global_pool == "avg":
            pooled = tokens.mean(skip)
        elif model.global_pool == "map":
            pooled = model.attn_pool(tokens.states[:, skip:], attn_mask=tokens.log_sizes(skip)[:, None, None])
        else:
            raise HarnessError(
                f"{type(model).__name__} pools by {model.global_pool!r}, which does not know what merged tokens stand "
                "for: use a tower that pools by its class token, the mean or attention"
            )
        return model.head(model.head_drop(model.fc_norm(pooled)))

    @property
    def patch_projection(self) -> nn.Module:
        return self.model.patch_embed.proj

    @property
    def recomputes(self) -> bool:
        return bool(self.model.grad_checkpointing)

    def patches_of(self, images: Tensor) -> int:
        embedding = self.model.patch_embed
        if not (self.model.dynamic_img_size or not embedding.strict_img_size):
            return self.shape.patches
        height, width = embedding.dynamic_feat_size(tuple(images.shape[-2:]))
        return int(height * width)

    def attention_dropout(self, block: int) -> float:
        return self.model.blocks[block].attn.attn_drop.p if self.model.training else 0.0


def _query_and_keys(qkv: nn.Linear, tokens: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """From a fused qkv projection, the first tokens' q (B, queries, D) and all k (B, N, D) only."""
    q_weight, k_weight, _ = qkv.weight.chunk(3)
    q_bias, k_bias = (None, None) if qkv.bias is None else qkv.bias.chunk(3)[:2]
    return F.linear(tokens[:, :queries], q_weight, q_bias), F.linear(tokens, k_weight, k_bias)


def _values(qkv: nn.Linear, tokens: Tensor) -> Tensor:
    """From a fused qkv projection, v (B, N, D) only."""
    return F.linear(tokens, qkv.weight.chunk(3)[2], None if qkv.bias is None else qkv.bias.chunk(3)[2])


class TransformersTower(VisionTower):
    """What transformers' CLIP and BLIP vision models share."""

    def __init__(self, model: nn.Module) -> None:
        # transformers 5.17 keeps the layers in .vision_model for CLIP, later releases in the model itself.
        self.core: Any = getattr(model, "vision_model", model)
        config: Any = self.core.config
        shape = StackShape(
            depth=config.num_hidden_layers,
            patches=self.core.embeddings.num_patches,
            prefix=1,
            width=config.hidden_size,
            class_token=True,
            name=type(model).__name__,
            heads=config.num_attention_heads,
            grid=(config.image_size // config.patch_size,) * 2,
        )
        super().__init__(model, shape)

    @property
    def patch_projection(self) -> nn.Module:
        projection: nn.Module = self.core.embeddings.patch_embedding
        return projection

    @property
    def recomputes(self) -> bool:
        return bool(getattr(self.core.encoder, "gradient_checkpointing", False))

    def output(self, tokens: Tokens) -> BaseModelOutputWithPooling:
        pooled = self.core.post_layernorm(tokens.states[:, 0])
        return BaseModelOutputWithPooling(last_hidden_state=tokens.states, pooler_output=pooled)


class CLIPTower(ClipBlocks, TransformersTower):
    """transformers' CLIPVisionModel: norm before the blocks; the last norm is for the pooled class token only."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.layers = self.core.encoder.layers

    def embed(self, images: Tensor) -> Tensor:
        return self.core.pre_layrnorm(self.core.embeddings(images))

    def embed_resized(self, images: Tensor) -> Tensor:
        return self.core.pre_layrnorm(self.core.embeddings(images, interpolate_pos_encoding=True))

    def finish(self, tokens: Tensor) -> Tensor:
        return tokens

    def normed(self, tokens: Tokens) -> Tensor:
        normed: Tensor = self.core.post_layernorm(tokens.states)
        return normed


class BLIPTower(TransformersTower):
    """transformers' BlipVisionModel: fused qkv; the last norm on all tokens, and once more on the pooled one."""

    def embed(self, images: Tensor) -> Tensor:
        return self.core.embeddings(images)

    def embed_resized(self, images: Tensor) -> Tensor:
        return self.core.embeddings(images, interpolate_pos_encoding=True)

    def queries_keys_values(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layer = self.core.encoder.layers[block]
        q, k, v = (self.heads_first(part) for part in layer.self_attn.qkv(layer.layer_norm1(tokens)).chunk(3, dim=-1))
        return q, k, v

    def query_and_keys(self, block: int, tokens: Tensor, queries: int = 1) -> tuple[Tensor, Tensor]:
        layer = self.core.encoder.layers[block]
        q, k = _query_and_keys(layer.self_attn.qkv, layer.layer_norm1(tokens), queries)
        return self.heads_first(q), self.heads_first(k)

    def values(self, block: int, tokens: Tensor) -> Tensor:
        layer = self.core.encoder.layers[block]
        return self.heads_first(_values(layer.self_attn.qkv, layer.layer_norm1(tokens)))

    def close_attention(self, block: int, tokens: Tensor, attended: Tensor) -> Tensor:
        return self.core.encoder.layers[block].self_attn.projection(attended) + tokens

    def finish(self, tokens: Tensor) -> Tensor:
        return self.core.post_layernorm(tokens)

    def mlp(self, block: int, tokens: Tensor) -> Tensor:
        layer = self.core.encoder.layers[block]
        return tokens + layer.mlp(layer.layer_norm2(tokens))

    def attention_dropout(self, block: int) -> float:
        return self.core.encoder.layers[block].self_attn.dropout.p if self.model.training else 0.0


def open_tower(model: nn.Module) -> VisionTower:
    """The tower of a timm VisionTransformer, a CLIPVisionModel or a BlipVisionModel; HarnessError for others."""
    if isinstance(model, VisionTransformer):
        return TimmTower(model)
    if isinstance(model, CLIPVisionModel):
        return CLIPTower(model)
    if isinstance(model, BlipVisionModel):
        return BLIPTower(model)
    raise HarnessError(
        f"{type(model).__name__} is not a tower this harness can open: expected timm's VisionTransformer, or "
        "transformers' CLIPVisionModel or BlipVisionModel"
    )
