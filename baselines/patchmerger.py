"""PatchMerger: learned queries read the tokens, and what they read goes on (arXiv 2202.12015)."""

import torch
from torch import Tensor, nn

from harness.reduction import Guide, Stack, StackShape, StagedConfig, TokenReducer, TokenState


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


class PatchMerger(TokenReducer[PatchMergerConfig]):
    """Before a block, the tokens behind the prefix become K weighted means of their normalised selves.

    Rests on JoakimHaurum/TokenReduction, models/patchmerger.py: LayerNorm with eps 1e-5, no scale on the products. A
    patch is traced to the query that weighs it most.
    """

    Config = PatchMergerConfig

    def __init__(self, config: PatchMergerConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.stages = config.stages(shape)
        layers = {str(stage): Queries(shape.width, count) for stage, count in self.stages.values()}
        self.cluster_layers = nn.ModuleDict(layers)

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if block not in self.stages:
            return state
        stage, _ = self.stages[block]
        merged, weights = self.cluster_layers[str(stage)](state.patch_tokens)
        into = weights.argmax(dim=1)
        return state.regroup(merged, into).noted(**{f"assignment_{block}": into})
