"""transformers' CLIP blocks, of its tower and of its text side alike, as a stack opens them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from harness.hosts.parts.plain_modules import plain_weight
from harness.reduction import Stack, TokenState, one_query_map


class ClipBlocks(Stack):
    """Pre-norm blocks with layer_norm1, self_attn, layer_norm2 and mlp. Shapes as in `harness.reduction.Stack`."""

    layers: Any

    def by_parts(self) -> Iterable[nn.Module]:
        """The modules that are not called but run by their parts."""
        return [layer.self_attn for layer in self.layers]

    def queries_keys_values(self, block: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        layer = self.layers[block]
        normed, own = layer.layer_norm1(tokens), layer.self_attn
        return (
            self.heads_first(own.q_proj(normed)),
            self.heads_first(own.k_proj(normed)),
            self.heads_first(own.v_proj(normed)),
        )

    def query_and_keys(self, block: int, tokens: Tensor, queries: int = 1) -> tuple[Tensor, Tensor]:
        layer = self.layers[block]
        normed, own = layer.layer_norm1(tokens), layer.self_attn
        return self.heads_first(own.q_proj(normed[:, :queries])), self.heads_first(own.k_proj(normed))

    def class_attention(self, block: int, state: TokenState) -> Tensor:
        layer = self.layers[block]
        weight = plain_weight(layer.self_attn.k_proj)
        if weight is None:
            return super().class_attention(block, state)
        normed, own = layer.layer_norm1(state.tokens), layer.self_attn
        query, bias = self.heads_first(own.q_proj(normed[:, :1])), self.block_bias(block, state, False)
        return one_query_map(query, weight, normed, bias)[:, :, 0, state.prefix :].mean(1)

    def values(self, block: int, tokens: Tensor) -> Tensor:
        layer = self.layers[block]
        return self.heads_first(layer.self_attn.v_proj(layer.layer_norm1(tokens)))

    def close_attention(self, block: int, tokens: Tensor, attended: Tensor) -> Tensor:
        return tokens + self.layers[block].self_attn.out_proj(attended)

    def mlp(self, block: int, tokens: Tensor) -> Tensor:
        layer = self.layers[block]
        return tokens + layer.mlp(layer.layer_norm2(tokens))

    def attention_dropout(self, block: int) -> float:
        own = self.layers[block].self_attn
        return float(own.dropout) if own.training else 0.0
