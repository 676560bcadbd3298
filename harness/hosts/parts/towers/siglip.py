"""transformers' SigLIP, and SigLIP 2 with patches of flexible grids."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.hosts.parts.clip_blocks import ClipBlocks
from harness.hosts.parts.towers.tower import VisionTower
from harness.hosts.parts.towers.transformers_tower import TransformersTower, model_output
from harness.kit.errors import HarnessError
from harness.reduction import StackShape, Tokens, TokenState

if TYPE_CHECKING:
    from transformers.modeling_outputs import BaseModelOutputWithPooling


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
        return model_output(tokens.states, pooled)

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
