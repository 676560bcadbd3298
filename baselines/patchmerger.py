"""PatchMerger: learned queries read the tokens, and what they read goes on (arXiv 2202.12015)."""

import torch
from torch import Tensor, nn

from harness.reduction import MixedStages, StagedConfig


class PatchMergerConfig(StagedConfig):
    """The stages of the comparison (ICCVW 2023); the paper itself merges once, to 8 tokens in the middle of the ViT."""


class Queries(nn.Module):
    """One stage: K queries on the normalised tokens."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(count, width))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, P, D) -> the merged (B, K, D) and the weights (B, K, P), which sum to 1 over the tokens."""
        normed = self.norm(tokens)
        weights = (self.queries @ normed.transpose(1, 2)).softmax(dim=-1)
        return weights @ normed, weights


class PatchMerger(MixedStages[PatchMergerConfig]):
    """Before a block, the tokens behind the prefix become K weighted means of their normalised selves.

    Rests on JoakimHaurum/TokenReduction, models/patchmerger.py: LayerNorm with eps 1e-5, no scale on the products. A
    patch is traced to the query that weighs it most.
    """

    Config = PatchMergerConfig

    def layer(self, count: int) -> nn.Module:
        return Queries(self.shape.width, count)
