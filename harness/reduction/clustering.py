"""Clusters of tokens: distances, and density peaks.

Shapes: B inputs, P tokens, D channels, K clusters.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from harness.reduction.indexing import split_top, take


@torch.no_grad()
def distances(tokens: Tensor) -> Tensor:
    """Euclidean distances (B, P, P) between tokens (B, P, D), without gradient, from one product; 0 on the diagonal.

    In float32 at least, whatever autocast says, and around the mean: a difference of large squares loses digits.
    """
    kind = tokens.device.type
    # Tensors without data, with which costs are counted, know no autocast.
    with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
        wide = tokens if tokens.dtype == torch.float64 else tokens.float()
        wide = wide - wide.mean(dim=1, keepdim=True)
        squares = wide.square().sum(dim=-1)
        squared = squares.unsqueeze(2) + squares.unsqueeze(1) - 2 * wide @ wide.transpose(1, 2)
        own = torch.eye(wide.shape[1], dtype=torch.bool, device=wide.device)
        return squared.clamp(min=0).sqrt().masked_fill(own, 0)


@torch.no_grad()
def density_peaks(apart: Tensor, count: int, neighbours: int, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Distances (B, P, P) -> `count` centres (B, K), best first, and the cluster (B, P) of each token.

    Density: exp of minus the mean squared distance to the nearest `neighbours`, itself included, plus `noise` (B, P).
    Centres: highest density times distance to the nearest denser token, or the image's largest distance where there is
    none; of equally dense ones the first is denser. All others join the nearest centre (Du, Ding, Jia 2016, "Study on
    density peaks clustering based on k-nearest neighbors").
    """
    near = apart.topk(min(neighbours, apart.shape[1]), dim=-1, largest=False).values
    density = (-near.square().mean(dim=-1)).exp()
    if noise is not None:
        density = density + noise.to(density.dtype)
    mine, others = density.unsqueeze(2), density.unsqueeze(1)
    earlier = torch.ones_like(apart[0], dtype=torch.bool).tril(-1)
    denser = (others > mine) | ((others == mine) & earlier)
    farthest = apart.amax(dim=(1, 2), keepdim=True)
    centres, _ = split_top(torch.where(denser, apart, farthest).amin(dim=-1) * density, count)
    into = take(apart, centres).argmin(dim=1)
    return centres, into.scatter(1, centres, torch.arange(count, device=into.device).expand_as(centres))
