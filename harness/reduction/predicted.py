"""Stages whose tokens a learned predictor chooses: hidden behind a mask in training, removed in evaluation.

What DynamicViT (raoyongming/DynamicViT, models/dyvit.py) and TPS (megvii-research/TPS-CVPR2023) share. Shapes: B
inputs, P tokens behind the prefix, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harness.reduction.guide import Guide
from harness.reduction.indexing import split_top
from harness.reduction.kernels import policy_map
from harness.reduction.method import MethodConfig, TokenReducer
from harness.reduction.schedule import Schedule
from harness.reduction.stack import Stack, StackShape
from harness.reduction.state import TokenState
from harness.reduction.tokens import Tokens


class PredictedConfig(MethodConfig):
    """schedule: .7 of the tokens at each of three stages. ratio_weight: of the loss that holds the masks to it."""

    schedule: Schedule = Schedule(begin=(3, 6, 9), keep=(0.7, 0.7**2, 0.7**3))
    ratio_weight: float = Field(default=2, ge=0)


PC = TypeVar("PC", bound=PredictedConfig)


class KeepPredictor(nn.Module):
    """Log-probabilities (B, P, 2) of keeping and of dropping each token, from itself and the mean of those kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.in_conv = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(width, half), nn.GELU(), nn.Linear(half, half // 2), nn.GELU(), nn.Linear(half // 2, 2)
        )

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        hidden = self.in_conv(tokens)
        half = hidden.shape[-1] // 2
        own, shared = hidden[..., :half], hidden[..., half:]
        if mask is None:
            mean = shared.mean(dim=1, keepdim=True)
        else:
            mean = (shared * mask.unsqueeze(-1)).sum(dim=1, keepdim=True) / mask.sum(dim=1)[:, None, None]
        logits: Tensor = self.out_conv(torch.cat([own, mean.expand_as(shared)], dim=-1))
        return logits.log_softmax(dim=-1)


def drawn_mask(log_probs: Tensor, noise: Tensor) -> Tensor:
    """(B, P) of zeros and ones, drawn with Gumbel noise (B, P, 2); its gradient is the softmax's (straight through)."""
    soft = (log_probs + noise).softmax(dim=-1)
    hard = F.one_hot(soft.argmax(dim=-1), 2).to(soft.dtype)
    return (hard - soft.detach() + soft)[..., 0]


class PredictedStages(TokenReducer[PC]):
    """Before each stage's block, the K = int(n0 keep) tokens of highest probability stay, in descending order; nothing
    is done where every stage leaves all n0.

    In training all stay, those not drawn hidden; every block attends through the softmax that the mask weighs, its eps
    included. gumbel: the noise of each stage, (B, P, 2); None draws it.
    """

    def __init__(self, config: PC, shape: StackShape) -> None:
        super().__init__(config, shape)
        schedule = config.schedule
        schedule.check_depth(shape.depth)
        counts = schedule.counts(shape.patches)
        stages = enumerate(zip(schedule.begin, counts)) if min(counts) < shape.patches else ()
        self.stages = {begin: (stage, count) for stage, (begin, count) in stages}
        self.score_predictor = nn.ModuleList(KeepPredictor(shape.width) for _ in schedule.begin)
        self.gumbel: Sequence[Tensor] | None = None

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if block not in self.stages:
            return state
        stage, count = self.stages[block]
        mask = None if state.mask is None else state.mask[:, state.prefix :]
        log_probs = self.score_predictor[stage](state.patch_tokens, mask)
        if not self.training:
            kept, dropped = split_top(log_probs[..., 0], count)
            return self.remove(state, kept, dropped).noted(**{f"kept_{stage}": kept})
        # -log of an exponential variable is a Gumbel one.
        noise = torch.empty_like(log_probs).exponential_().log().neg() if self.gumbel is None else self.gumbel[stage]
        before = state.policy[:, state.prefix :]
        mask = drawn_mask(log_probs, noise) * before
        return self.conceal(state, before, mask).noted(**{f"mask_{stage}": mask})

    def remove(self, state: TokenState, kept: Tensor, dropped: Tensor) -> TokenState:
        """What stays in evaluation: kept (B, K) of the tokens."""
        return state.keep(kept)

    def conceal(self, state: TokenState, before: Tensor, mask: Tensor) -> TokenState:
        """The state of training after a stage, from its mask (B, P) before and now."""
        return state.with_mask(mask)

    def attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        if not self.training:
            return super().attention(block, q, k, v, state, stack)
        return policy_map(q, k, state.policy) @ v, state

    def losses(self, tokens: Tokens, dense: Tokens | None) -> Mapping[str, Tensor]:
        shares = [
            (tokens.notes[f"mask_{stage}"].mean(dim=1) - keep).square().mean()
            for stage, keep in enumerate(self.config.schedule.keep)
            if f"mask_{stage}" in tokens.notes
        ]
        return {"ratio": self.config.ratio_weight * torch.stack(shares).mean()} if shares else {}
