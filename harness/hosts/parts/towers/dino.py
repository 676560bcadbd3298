"""transformers' DINOv2 (with registers) and DINOv3, whose positions follow any image size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from harness.hosts.parts.towers.places import RotaryTower
from harness.hosts.parts.towers.transformers_tower import BlockTower, pair


class DinoV2Tower(BlockTower):
    """DINOv2, whose positions are interpolated to any size; register tokens are prefix tokens."""

    def __init__(self, model: nn.Module) -> None:
        config: Any = model.config
        self.prefix = 1 + int(getattr(config, "num_register_tokens", 0))
        super().__init__(model)

    def takes(self, height: int, width: int) -> bool:
        rows, columns = pair(self.core.config.patch_size)
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
        for pixels, patch in zip(images.shape[-2:], pair(config.patch_size), strict=True):
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
