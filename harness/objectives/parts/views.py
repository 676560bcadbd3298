"""What makes views of one image agree: heads with batch norms over all processes, SimCLR's loss and BYOL's.

Sources: Chen et al. 2020, arXiv 2002.05709, and Grill et al. 2020, arXiv 2006.07733, in the forms of microsoft/A-CLIP
(models.py, losses.py). Shapes: B images of this process, G of all, D channels of a head's output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.kit import distributed

OWN_PAIR = 1e9


class GlobalBatchNorm(nn.BatchNorm1d):
    """Batch norm by the rows of all processes, with their gradients."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or distributed.world() == 1:
            return super().forward(input)
        every = super().forward(distributed.gather_with_gradient(input))
        return every.chunk(distributed.world())[distributed.rank()]


def simclr_head(width: int, hidden: int, out: int) -> nn.Sequential:
    """Three Linears, the first two with norm and ReLU."""
    return nn.Sequential(
        *(nn.Linear(width, hidden), GlobalBatchNorm(hidden), nn.ReLU()),
        *(nn.Linear(hidden, hidden), GlobalBatchNorm(hidden), nn.ReLU()),
        nn.Linear(hidden, out),
    )


def byol_head(width: int, hidden: int, out: int) -> nn.Sequential:
    """Two Linears without bias, norm and ReLU between them."""
    return nn.Sequential(
        nn.Linear(width, hidden, bias=False), GlobalBatchNorm(hidden), nn.ReLU(), nn.Linear(hidden, out, bias=False)
    )


def simclr_loss(first_BD: Tensor, second_BD: Tensor, temperature: float) -> Tensor:
    """Each view against the other view of all images and against its own view of all others, both ways, mean."""
    own = distributed.own_rows(len(first_BD), first_BD.device)
    views = F.normalize(first_BD, dim=-1), F.normalize(second_BD, dim=-1)
    everyone = [distributed.gather_with_gradient(view) for view in views]
    itself = OWN_PAIR * F.one_hot(own, len(everyone[0])).to(first_BD.dtype)
    losses = []
    for at, other in ((0, 1), (1, 0)):
        across = views[at] @ everyone[other].T / temperature
        along = views[at] @ everyone[at].T / temperature - itself
        losses.append(F.cross_entropy(torch.cat([across, along], dim=1), own))
    return torch.stack(losses).mean()


def byol_loss(predicted_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean of 2 - 2 cos, without gradient to the target."""
    cosines = (F.normalize(predicted_BD, dim=-1) * F.normalize(target_BD.detach(), dim=-1)).sum(dim=-1)
    return (2 - 2 * cosines).mean()
