"""Gathering and adding by token index. Shapes: B inputs, N tokens, D channels."""

from __future__ import annotations

import torch
from torch import Tensor


def take(values: Tensor, index: Tensor) -> Tensor:
    """Gather rows: values (B, P, D), index (B, K) -> (B, K, D)."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def add_to(values: Tensor, source: Tensor, into: Tensor) -> Tensor:
    """values (B, P) or (B, P, D) with those at source (B, R) added to those at `into` (B, R)."""
    if values.dim() == 2:
        return values.scatter_add(1, into, values.gather(1, source))
    return values.scatter_add(1, into.unsqueeze(-1).expand(-1, -1, values.shape[-1]), take(values, source))


def moved(origin: Tensor, places: Tensor) -> Tensor:
    """Compose patch -> token (B, n0) with token -> new token (B, P); -1 stays -1."""
    if not places.shape[1]:  # no token is left, and so no patch lives in one
        return origin
    return torch.where(origin < 0, origin, places.gather(1, origin.clamp(min=0)))


def redirected(source: Tensor, into: Tensor, patches: int) -> Tensor:
    """Where each of some tokens lives (B, patches) once those at source (B, R) live with those at `into` (B, R)."""
    places = torch.arange(patches, device=source.device).repeat(source.shape[0], 1)
    return places.scatter(1, source, into)


def split_top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices of the `count` highest scores (B, P), descending, and of the others: (B, K), (B, P - K).

    Ties go to the lower index, so that results do not depend on device or batch.
    """
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices
    return order[:, :count], order[:, count:]
