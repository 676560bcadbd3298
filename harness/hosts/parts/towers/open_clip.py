"""open_clip's and OpenAI's visual tower, known by its parts: neither package has to be installed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.hosts.parts.towers.tower import Fused, PreNormBlock, PreNormTower
from harness.kit.errors import HarnessError
from harness.reduction import StackShape, Tokens

PARTS = ("conv1", "class_embedding", "positional_embedding", "ln_pre", "transformer", "ln_post")


def is_open_clip(model: nn.Module) -> bool:
    """Whether a module has the parts of open_clip's visual tower."""
    return all(hasattr(model, name) for name in PARTS) and hasattr(model.transformer, "resblocks")


class OpenClipTower(PreNormTower):
    """CLIP's ViT as open_clip holds it: blocks around nn.MultiheadAttention, the pooled token projected."""

    def __init__(self, model: Any) -> None:
        blocks, conv = model.transformer.resblocks, model.conv1
        for block in blocks:
            if not isinstance(getattr(block, "attn", None), nn.MultiheadAttention) or hasattr(block, "ln_attn"):
                raise HarnessError(
                    f"open_clip's visual tower with {type(block).__name__} blocks: only those around "
                    "nn.MultiheadAttention can be reduced"
                )
        if getattr(model, "attn_pool", None) is not None:
            raise HarnessError("open_clip's visual tower with an attentional pooler (CoCa) cannot be reduced")
        rows, columns = conv.kernel_size
        grid = getattr(model, "grid_size", None)
        side = round((len(model.positional_embedding) - 1) ** 0.5)
        grid = (side, side) if grid is None else tuple(grid)
        shape = StackShape(
            depth=len(blocks),
            patches=grid[0] * grid[1],
            prefix=1,
            width=conv.out_channels,
            class_token=True,
            name=f"open_clip's {type(model).__name__}",
            heads=blocks[0].attn.num_heads,
            grid=grid,
        )
        images = getattr(model, "image_size", None) or (grid[0] * rows, grid[1] * columns)
        super().__init__(model, shape, (conv.in_channels, int(images[0]), int(images[1])))
        self.own: Any = model
        self.blocks = [_parts(block) for block in blocks]

    def embed(self, images: Tensor) -> Tensor:
        own = self.own
        patches = own.conv1(images).flatten(2).transpose(1, 2)
        first = own.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([first, patches], dim=1) + own.positional_embedding.to(patches.dtype)
        return own.ln_pre(getattr(own, "patch_dropout", nn.Identity())(tokens))

    def finish(self, tokens: Tensor) -> Tensor:
        """The last norm, unless the tower pools before it or (OpenAI's) norms the pooled token alone: all equal it."""
        return tokens if self._late else self.own.ln_post(tokens)

    @property
    def _late(self) -> bool:
        return bool(getattr(self.own, "final_ln_after_pool", False))

    def output(self, tokens: Tokens) -> Any:
        kind = getattr(self.own, "pool_type", "tok")
        if kind == "none":
            features, rest = tokens.states, tokens.states
        elif kind == "avg":
            features, rest = tokens.mean(1), tokens.states[:, 1:]
        else:
            features, rest = tokens.states[:, 0], tokens.states[:, 1:]
        if self._late:
            features = self.own.ln_post(features)
        if self.own.proj is not None:
            features = features @ self.own.proj
        return (features, rest) if getattr(self.own, "output_tokens", False) else features

    def pooled(self, tokens: Tokens) -> Tensor:
        found = self.output(tokens)
        features: Tensor = found[0] if isinstance(found, tuple) else found
        return features if features.dim() == 2 else tokens.mean(1)

    def by_parts(self) -> Iterable[nn.Module]:
        return [block.attn for block in self.own.transformer.resblocks]

    @property
    def recomputes(self) -> bool:
        return bool(getattr(self.own.transformer, "grad_checkpointing", False))


def _parts(block: Any) -> PreNormBlock:
    attention = block.attn

    def product(tokens: Tensor) -> Tensor:
        return F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)

    def out(attended: Tensor, _: Callable[[], Tensor]) -> Tensor:
        projected: Tensor = attention.out_proj(attended)
        return projected

    scales = [getattr(block, f"ls_{half}", nn.Identity()) for half in (1, 2)]
    return PreNormBlock(
        lambda tokens: block.ln_1(tokens),
        Fused(product, lambda: attention.in_proj_weight, lambda: attention.in_proj_bias),
        out,
        lambda tokens: block.ln_2(tokens),
        lambda tokens: block.mlp(tokens),
        scales[0],
        scales[1],
        dropout=lambda: float(attention.dropout),
    )
