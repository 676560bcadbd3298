"""TPS: drop tokens by a predictor and squeeze each one into the kept token most like it (arXiv 2304.10716; dTPS).

Rests on the authors' program (megvii-research/TPS-CVPR2023, torch_codebase), held by reference vectors in training and
evaluation. eTPS is not in it.
"""

from dataclasses import replace
from math import e

import torch
from pydantic import Field
from torch import Tensor

from harness.reduction import PredictedConfig, PredictedStages, TokenState, phase, take

FAR = -100.0


class TPSConfig(PredictedConfig):
    """schedule: .7, .7^2 and .7^3 of the input's patches before blocks 3, 6 and 9. ratio_weight: keep_ratio_w.

    temperature: tau, which divides the cosines; a kept token's own weight is e whatever it is, as in the program.
    """

    temperature: float = Field(default=1, gt=0)


class TPS(PredictedStages[TPSConfig]):
    """x_i <- (e x_i + sum_j exp(c_ji) x_j) / (e + sum_j exp(c_ji)) over the dropped j most like i, c = cos / tau.

    Selection is DynamicViT's; gradients flow through the cosines and, in training, through the masks (section 3.3).
    """

    Config = TPSConfig

    def cosines(self, one: Tensor, other: Tensor) -> Tensor:
        """(B, M, N) between tokens (B, M, D) and (B, N, D)."""
        first, second = (part / (part.norm(dim=-1, keepdim=True) + 1e-6) for part in (one, other))
        with phase("matching"):
            return first @ second.transpose(1, 2)

    def remove(self, state: TokenState, kept: Tensor, dropped: Tensor) -> TokenState:
        tokens = state.patch_tokens
        likeness = self.cosines(take(tokens, dropped), take(tokens, kept)) / self.config.temperature
        best = likeness.max(dim=-1)
        weights = tokens.new_full(tokens.shape[:2], e).scatter(1, dropped, best.values.exp().to(tokens.dtype))
        merged = state.merge(dropped, kept.gather(1, best.indices), kept, weights)
        return replace(merged, sizes=None)

    def conceal(self, state: TokenState, before: Tensor, mask: Tensor) -> TokenState:
        tokens = state.patch_tokens
        own = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
        likeness = self.cosines(tokens, tokens).masked_fill(own, FAR) / self.config.temperature
        likeness = likeness.masked_fill(mask.detach().unsqueeze(1) < 0.5, FAR)
        dropped_now = ((1 - mask) * before).unsqueeze(2)
        host = (likeness == likeness.amax(dim=-1, keepdim=True)).to(tokens.dtype) * dropped_now
        weights = (host * (host * likeness).exp()).transpose(1, 2)
        squeezed = (e * tokens + weights @ tokens) / (e + weights.sum(dim=-1, keepdim=True))
        return super().conceal(state.with_patch_tokens(squeezed), before, mask)
