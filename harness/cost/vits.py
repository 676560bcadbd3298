"""From a name to a ViT, with or without data: what `cost --model NAME` measures."""

from __future__ import annotations

import torch
from torch import nn


def build_vit(name: str, image_size: int | None = None, device: str | torch.device = "meta") -> nn.Module:
    """A ViT by its timm name, with or without `timm/`, or as transformers/FOLDER, with random weights.

    For square images of `image_size` px. On "meta" it has shapes only and is made in an instant. Raises HarnessError as
    `harness.hosts.tower.sources.build_tower`.
    """
    from harness.hosts.tower.sources import TIMM, TRANSFORMERS, build_tower

    source = name if name.startswith((TIMM, TRANSFORMERS)) else TIMM + name
    with torch.device(device):
        return build_tower(source, image_size)
