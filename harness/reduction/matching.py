"""Bipartite matching: every second token goes into its most similar one among the others (ToMe, arXiv 2210.09461).

Shapes: B inputs, P tokens behind the prefix, d channels of what is compared, R tokens that merge.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.reduction.indexing import split_top


def even_and_odd(patches: int, prefix: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices behind the prefix of the tokens at even and at odd positions, counted from the front of the sequence."""
    position = torch.arange(patches, device=device)
    return position[prefix % 2 :: 2], position[(prefix + 1) % 2 :: 2]


@torch.no_grad()
def bipartite(keys: Tensor, prefix: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` best cosines of keys (B, P, d): sources and destinations (B, R), and what remains (B, P - R).

    Sources stand at even positions, destinations at odd ones; the others at even ones remain, in order, before the odd.
    Of a count of 0 nothing merges.
    """
    even, odd = even_and_odd(keys.shape[1], prefix, keys.device)
    if count == 0:
        none = even.new_zeros(len(keys), 0)
        return none, none, torch.cat([even, odd]).expand(len(keys), -1)
    unit = F.normalize(keys, dim=-1)
    similarity, match = (unit[:, even] @ unit[:, odd].transpose(1, 2)).max(dim=-1)
    best, others = split_top(similarity, count)
    rest = torch.cat([even[others.sort(dim=1).values], odd.expand(len(keys), -1)], dim=1)
    return even[best], odd[match.gather(1, best)], rest
