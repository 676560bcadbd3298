"""Vision towers that can be opened block by block: timm's VisionTransformer, transformers' CLIP and BLIP ViTs.

A tower is a view of a model that it does not copy or change. Shapes: B images, N tokens (prefix first),
D channels, H heads, d = D / H. Blocks are sequential and pre-norm; anything else is refused by name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from timm.layers.attention import Attention as TimmAttention
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BlipVisionModel, CLIPVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from harness.hosts.parts.attention import attention, attention_map
from harness.kit.errors import HarnessError
from harness.reduction import Evidence, TokenState, TowerShape, phase


class VisionTower(ABC):
    """One loop's view of a ViT: embed, then per block `attend` and `feed_forward`, then finish and pool."""

    def __init__(self, model: nn.Module, shape: TowerShape, heads: int) -> None:
        self.model = model
        self.shape = shape
        self.heads = heads

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W) -> tokens (B, N, D) entering block 0."""

    @abstractmethod
    def queries_keys_values(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (B, N, D), before the norm -> q, k, v, each (B, H, N, d), unscaled."""

    @abstractmethod
    def query_and_keys(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """As above, but only the first token's q (B, H, 1, d) and all k (B, H, N, d): nothing else is computed."""

    @abstractmethod
    def close_attention(self, block: int, tokens: Tensor, attended: Tensor) -> Tensor:
        """Project the heads' outputs (B, N, D) and add them to the residual stream (B, N, D)."""

    @abstractmethod
    def mlp(self, block: int, tokens: Tensor) -> Tensor:
        """Norm, MLP and residual on tokens (B, N, D)."""

    @abstractmethod
    def finish(self, tokens: Tensor) -> Tensor:
        """The final norm, where the model applies it to all tokens."""

    @abstractmethod
    def output(self, tokens: Tensor) -> Any:
        """What the model's own forward returns, from the finished tokens."""

    def attention_dropout(self, block: int) -> float:
        """Dropout on the attention map while training."""
        return 0.0

    def attend(
        self, block: int, state: TokenState, wants: frozenset[str], proportional: bool = False
    ) -> tuple[TokenState, Evidence]:
        """Norm, attention and residual of one block, with the evidence a method wants of it.

        With `proportional`, log sizes are added to the keys' logits (ToMe).
        """
        q, k, v = self.queries_keys_values(block, state.tokens)
        bias = None
        if proportional and state.sizes is not None:
            bias = state.sizes.log()[:, None, None, :].to(q.dtype)
        evidence = self._evidence(q, k, wants, state.prefix, bias)
        dropout = self.attention_dropout(block) if self.model.training else 0.0
        attended = attention(q, k, v, bias, dropout).transpose(1, 2).flatten(2)
        return replace(state, tokens=self.close_attention(block, state.tokens, attended)), evidence

    def feed_forward(self, block: int, state: TokenState) -> TokenState:
        """Norm, MLP and residual of one block."""
        return replace(state, tokens=self.mlp(block, state.tokens))

    def observe(self, block: int, state: TokenState, wants: frozenset[str]) -> Evidence:
        """The evidence of a block that is not run: for cls_attention and keys, one query and the keys only."""
        if "attention_received" in wants:
            q, k, _ = self.queries_keys_values(block, state.tokens)
        else:
            q, k = self.query_and_keys(block, state.tokens)
        return self._evidence(q, k, wants, state.prefix, None)

    def _evidence(self, q: Tensor, k: Tensor, wants: frozenset[str], prefix: int, bias: Tensor | None) -> Evidence:
        if not wants:
            return Evidence()
        found: dict[str, Tensor] = {}
        with phase("scoring"):
            if "cls_attention" in wants:
                found["cls_attention"] = attention_map(q[:, :, :1], k, bias)[:, :, 0, prefix:].mean(1)
            if "keys" in wants:
                found["keys"] = k.mean(1)
            if "attention_received" in wants:
                found["attention_received"] = attention_map(q, k, bias).mean((1, 2))
        return Evidence(**found)

    def heads_first(self, projected: Tensor) -> Tensor:
        """(B, N, D) -> (B, H, N, d)."""
        return projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)


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
        shape = TowerShape(
            depth=len(model.blocks),
            patches=model.patch_embed.num_patches,
            prefix=model.num_prefix_tokens,
            width=model.embed_dim,
            class_token=model.cls_token is not None,
            name=type(model).__name__,
        )
        super().__init__(model, shape, model.blocks[0].attn.num_heads)

    def embed(self, images: Tensor) -> Tensor:
        model = self.model
        return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))

    def queries_keys_values(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layer = self.model.blocks[block]
        q, k, v = (self.heads_first(part) for part in layer.attn.qkv(layer.norm1(tokens)).chunk(3, dim=-1))
        return layer.attn.q_norm(q), layer.attn.k_norm(k), v

    def query_and_keys(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.model.blocks[block]
        q, k = _slices(layer.attn.qkv, layer.norm1(tokens))
        return layer.attn.q_norm(self.heads_first(q)), layer.attn.k_norm(self.heads_first(k))

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

    def output(self, tokens: Tensor) -> Tensor:
        """forward_head of the finished tokens: logits (B, classes), or pooled features without a head."""
        return self.model.forward_head(tokens)

    def attention_dropout(self, block: int) -> float:
        return self.model.blocks[block].attn.attn_drop.p


def _slices(qkv: nn.Linear, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """From a fused qkv projection, the first token's q (B, 1, D) and all k (B, N, D) only."""
    q_weight, k_weight, _ = qkv.weight.chunk(3)
    q_bias, k_bias = (None, None) if qkv.bias is None else qkv.bias.chunk(3)[:2]
    return F.linear(tokens[:, :1], q_weight, q_bias), F.linear(tokens, k_weight, k_bias)


class TransformersTower(VisionTower):
    """What transformers' CLIP and BLIP vision models share: layers with layer_norm1, self_attn, layer_norm2, mlp."""

    def __init__(self, model: nn.Module) -> None:
        # transformers 5.17 keeps the layers in .vision_model for CLIP, later releases in the model itself.
        self.core: Any = getattr(model, "vision_model", model)
        config: Any = self.core.config
        shape = TowerShape(
            depth=config.num_hidden_layers,
            patches=self.core.embeddings.num_patches,
            prefix=1,
            width=config.hidden_size,
            class_token=True,
            name=type(model).__name__,
        )
        super().__init__(model, shape, config.num_attention_heads)

    def mlp(self, block: int, tokens: Tensor) -> Tensor:
        layer = self.core.encoder.layers[block]
        return tokens + layer.mlp(layer.layer_norm2(tokens))


class CLIPTower(TransformersTower):
    """transformers' CLIPVisionModel: norm before the blocks; the last norm is for the pooled class token only."""

    def embed(self, images: Tensor) -> Tensor:
        return self.core.pre_layrnorm(self.core.embeddings(images))

    def queries_keys_values(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layer = self.core.encoder.layers[block]
        normed, attn = layer.layer_norm1(tokens), layer.self_attn
        return (
            self.heads_first(attn.q_proj(normed)),
            self.heads_first(attn.k_proj(normed)),
            self.heads_first(attn.v_proj(normed)),
        )

    def query_and_keys(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.core.encoder.layers[block]
        normed, attn = layer.layer_norm1(tokens), layer.self_attn
        return self.heads_first(attn.q_proj(normed[:, :1])), self.heads_first(attn.k_proj(normed))

    def close_attention(self, block: int, tokens: Tensor, attended: Tensor) -> Tensor:
        return tokens + self.core.encoder.layers[block].self_attn.out_proj(attended)

    def finish(self, tokens: Tensor) -> Tensor:
        return tokens

    def output(self, tokens: Tensor) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=self.core.post_layernorm(tokens[:, 0])
        )

    def attention_dropout(self, block: int) -> float:
        return self.core.encoder.layers[block].self_attn.dropout


class BLIPTower(TransformersTower):
    """transformers' BlipVisionModel: fused qkv; the last norm on all tokens, and once more on the pooled one."""

    def embed(self, images: Tensor) -> Tensor:
        return self.core.embeddings(images)

    def queries_keys_values(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layer = self.core.encoder.layers[block]
        q, k, v = (self.heads_first(part) for part in layer.self_attn.qkv(layer.layer_norm1(tokens)).chunk(3, dim=-1))
        return q, k, v

    def query_and_keys(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        layer = self.core.encoder.layers[block]
        q, k = _slices(layer.self_attn.qkv, layer.layer_norm1(tokens))
        return self.heads_first(q), self.heads_first(k)

    def close_attention(self, block: int, tokens: Tensor, attended: Tensor) -> Tensor:
        return self.core.encoder.layers[block].self_attn.projection(attended) + tokens

    def finish(self, tokens: Tensor) -> Tensor:
        return self.core.post_layernorm(tokens)

    def output(self, tokens: Tensor) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(
            last_hidden_state=tokens, pooler_output=self.core.post_layernorm(tokens[:, 0])
        )

    def attention_dropout(self, block: int) -> float:
        return self.core.encoder.layers[block].self_attn.dropout.p


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
