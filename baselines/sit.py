"""SiT: each slot is a learned weighted mean of the tokens (Self-slimmed ViT, ECCV 2022, arXiv 2111.12624)."""

import torch
from torch import Tensor, nn

from harness.reduction import MixedStages, StagedConfig


class SiTConfig(StagedConfig):
    """The stages of the comparison (ICCVW 2023)."""


class Slots(nn.Module):
    """One stage: an MLP gives each token's logit for each of K slots, times a learned scale."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        hidden = width // 2
        self.weight = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, count))
        self.scale = nn.Parameter(torch.ones(1, 1, 1))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, P, D) -> the merged (B, K, D) and the weights (B, K, P), which sum to 1 over the tokens."""
        weights = (self.weight(tokens) * self.scale).softmax(dim=1).transpose(1, 2)
        return weights @ tokens, weights


class SiT(MixedStages[SiTConfig]):
    """Before a block, the tokens behind the prefix become K weighted means.

    Rests on JoakimHaurum/TokenReduction, models/sit.py: the token slimming module alone, without the feature
    distillation of the paper. A patch is traced to the slot that weighs it most.
    """

    Config = SiTConfig

    def layer(self, count: int) -> nn.Module:
        return Slots(self.shape.width, count)
