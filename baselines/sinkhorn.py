"""Sinkhorn: tokens are transported to learned centres at least cost (ICCVW 2023, 2308.04657)."""

from math import log

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn
from torch.nn import functional as F

from harness.reduction import MixedStages, StagedConfig


class SinkhornConfig(StagedConfig):
    """eps: of the entropy, larger spreads a token over more centres. iterations: of the row and column scaling."""

    eps: float = Field(default=1.0, gt=0)
    iterations: NonNegativeInt = 3


class Centres(nn.Module):
    """One stage: K centres, of which only the direction counts."""

    def __init__(self, width: int, count: int, config: SinkhornConfig) -> None:
        super().__init__()
        self.eps, self.iterations = config.eps, config.iterations
        self.v = nn.Parameter(torch.randn(count, width))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, P, D) -> sums of unit tokens (B, K, D) and the plan (B, K, P), of which each column sums to 1."""
        unit = F.normalize(tokens, dim=-1)
        # The program normalises its centres in place, so that their gradient is that of the unit ones.
        centres = self.v + (F.normalize(self.v, dim=-1) - self.v).detach()
        affinity = centres @ unit.transpose(1, 2) / self.eps
        total = affinity.shape[1] + affinity.shape[2]
        rows, columns = torch.zeros_like(affinity[:, :, :1]), torch.zeros_like(affinity[:, :1])
        for _ in range(self.iterations):
            rows = -log(total) - (affinity + columns).logsumexp(dim=2, keepdim=True)
            columns = -log(total) - (affinity + rows).logsumexp(dim=1, keepdim=True)
        plan = (affinity + rows + columns).exp() * total
        return plan.to(unit.dtype) @ unit, plan


class Sinkhorn(MixedStages[SinkhornConfig]):
    """Before a block, the tokens behind the prefix become K sums of unit tokens; their norms are lost.

    Rests on JoakimHaurum/TokenReduction, models/sinkhorn.py. A patch is traced to the centre that gets most of it.
    """

    Config = SinkhornConfig

    def layer(self, count: int) -> nn.Module:
        return Centres(self.shape.width, count, self.config)
