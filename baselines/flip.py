"""FLIP: in training keep a random part of the patches before block 0, in evaluation all of them (CVPR 2023).

Rests on the paper (arXiv 2212.00794) and the released program (facebookresearch/flip): int(n0 (1 - mask_ratio)) of the
patches, with their position embeddings, in the order of the draw; no score, no mask token. A draw depends on the seed
and the image's own pixels, so that a batch equals its images one by one.
"""

from pydantic import Field
from torch import Tensor

from harness.reduction import Guide, MethodConfig, Stack, StackShape, TokenReducer, TokenState, split_top, uniform


class FLIPConfig(MethodConfig):
    """mask_ratio: share of the patches that a training step leaves out (.5 in the paper's default, .75 its fastest)."""

    mask_ratio: float = Field(default=0.5, ge=0, lt=1)
    seed: int = 0

    def bent(self, gamma: float) -> "FLIPConfig":
        return self.model_copy(update={"mask_ratio": 1 - (1 - self.mask_ratio) ** gamma})


class FLIP(TokenReducer[FLIPConfig]):
    """Random patches in training: the control for whatever reduces in pre-training."""

    Config = FLIPConfig
    stochastic = True
    only_in_training = True

    # Numbers (B, n0), the smallest of which stay; drawn where there are none.
    noise: Tensor | None = None

    def __init__(self, config: FLIPConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.count = max(1, int(shape.patches * (1 - config.mask_ratio)))

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if block or not self.training or self.count >= state.patches or state.sample_keys is None:
            return state
        drawn = uniform(state.sample_keys, state.patches, self.config.seed) if self.noise is None else self.noise
        kept, _ = split_top(-drawn, self.count)
        return state.keep(kept)
