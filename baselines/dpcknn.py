"""DPC-KNN: cluster tokens around density peaks, merge each cluster (Du et al. 2016; in ViTs ICCVW 2023, 2308.04657)."""

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from harness.reduction import (
    Guide,
    Stack,
    StackShape,
    StagedConfig,
    TokenReducer,
    TokenState,
    density_peaks,
    distances,
    phase,
    uniform,
)


class DPCKNNConfig(StagedConfig):
    """neighbours: k of the density, the token itself included. noise: what is drawn on top of a density breaks ties.

    equal_weight: plain means, which need no training, are the default; False, the program's own default, weighs a token
    by exp of a learned Linear. seed: of the noise.
    """

    neighbours: PositiveInt = 5
    equal_weight: bool = True
    noise: float = Field(default=1e-6, ge=0)
    seed: int = 0


class Score(nn.Module):
    """The released program's name for a stage's learned weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1)


class DPCKNN(TokenReducer[DPCKNNConfig]):
    """Before a block: centres have many near neighbours and are far from denser tokens; all others join the nearest.

    Rests on JoakimHaurum/TokenReduction, models/dpcknn.py. Clusters have no gradient, weights have. Centres stand by
    falling score. An image's noise depends on the seed and its own pixels, not on its batch.
    """

    Config = DPCKNNConfig
    stochastic = True

    def __init__(self, config: DPCKNNConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.stages = config.stages(shape)
        learned = [] if config.equal_weight else self.stages.values()
        self.cluster_layers = nn.ModuleDict({str(stage): Score(shape.width) for stage, _ in learned})
        self.density_noise: dict[int, Tensor] = {}

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if block not in self.stages:
            return state
        stage, count = self.stages[block]
        tokens = state.patch_tokens
        weights = torch.ones_like(tokens[..., 0])
        if not self.config.equal_weight:
            layer = self.cluster_layers[str(stage)]
            assert isinstance(layer, Score)
            weights = layer.score(tokens).squeeze(-1).exp()
        with phase("matching"):
            apart = distances(tokens) / tokens.shape[-1] ** 0.5
        noise = self.config.noise * self.drawn(stage, state)
        centres, into = density_peaks(apart, count, self.config.neighbours, noise)
        return state.group(into, count, weights, eps=1e-6).noted(**{f"kept_{block}": centres})

    def drawn(self, stage: int, state: TokenState) -> Tensor:
        """(B, P) in [0, 1): `density_noise` where a test has set it."""
        if stage in self.density_noise:
            return self.density_noise[stage]
        if state.sample_keys is None:
            return torch.zeros_like(state.patch_tokens[..., 0])
        return uniform(state.sample_keys, state.patches, self.config.seed, stage)
