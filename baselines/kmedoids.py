"""K-medoids: each cluster of tokens leaves the one that is nearest to all (in ViTs: ICCVW 2023, 2308.04657)."""

import torch
from pydantic import NonNegativeInt
from torch import Tensor

from harness.reduction import (
    Evidence,
    Guide,
    HarnessError,
    Stack,
    StackShape,
    StagedConfig,
    TokenReducer,
    TokenState,
    distances,
    phase,
    split_top,
    take,
    uniform,
)


class KMedoidsConfig(StagedConfig):
    """iterations: assignments and updates of the medoids, before the last assignment.

    equal_weight: tokens count one each and the first medoids are far apart; else they count by the attention that they
    received in the block before, and the most attended ones come first. seed: of the first medoid (equal_weight).
    """

    iterations: NonNegativeInt = 3
    equal_weight: bool = False
    seed: int = 0


class KMedoids(TokenReducer[KMedoidsConfig]):
    """Before a block, keep the medoids, unchanged and in the order of their clusters; the others go.

    Rests on JoakimHaurum/TokenReduction, models/kmedoids.py, also where it is odd: a token's cost is its distance to
    all tokens, not to its cluster's, and with equal_weight the next first medoid is the one whose largest (not
    smallest) distance to those chosen is largest. The program draws one first medoid for a batch; here each image has
    its own, from its pixels. A patch is traced to the medoid of its cluster.
    """

    Config = KMedoidsConfig
    stochastic = True

    def __init__(self, config: KMedoidsConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.stages = config.stages(shape)
        if 0 in self.stages and not config.equal_weight:
            raise HarnessError("kmedoids at block 0: no attention goes before it; begin later or set equal_weight=true")
        self.first_center: dict[int, Tensor] = {}

    def evidence(self, block: int) -> frozenset[str]:
        wanted = block + 1 in self.stages and not self.config.equal_weight
        return frozenset({"attention_received"}) if wanted else frozenset()

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        received = evidence.attention_received
        return state if received is None else state.noted(received=received[:, state.prefix :].detach())

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if block not in self.stages:
            return state
        stage, count = self.stages[block]
        with torch.no_grad(), phase("matching"):
            apart = distances(state.patch_tokens)
        if self.config.equal_weight:
            weights, first = torch.ones_like(apart[..., 0]), self.spread(apart, count, self.first(stage, state))
        else:
            weights = state.notes["received"].to(apart.dtype)
            first, _ = split_top(weights, count)
        medoids, into = self.cluster(apart, weights, first)
        return state.regroup(take(state.patch_tokens, medoids), into).noted(**{f"kept_{block}": medoids})

    def first(self, stage: int, state: TokenState) -> Tensor:
        """(B,): `first_center` where a test has set it."""
        if stage in self.first_center:
            return self.first_center[stage].expand(len(state.tokens))
        if state.sample_keys is None:
            return torch.zeros(len(state.tokens), dtype=torch.long, device=state.tokens.device)
        return (uniform(state.sample_keys, 1, self.config.seed, stage)[:, 0] * state.patches).long()

    @torch.no_grad()
    def spread(self, apart: Tensor, count: int, first: Tensor) -> Tensor:
        """(B, K): the first medoids, each the one with the largest distance to any before it."""
        chosen, farthest = [first], torch.zeros_like(apart[..., 0])
        taken = torch.zeros_like(farthest, dtype=torch.bool)
        for _ in range(count - 1):
            last = chosen[-1].unsqueeze(1)
            taken = taken.scatter(1, last, True)
            farthest = farthest.maximum(take(apart, last).squeeze(1))
            chosen.append(farthest.masked_fill(taken, -1).argmax(dim=1))
        return torch.stack(chosen, dim=1)

    @torch.no_grad()
    def cluster(self, apart: Tensor, weights: Tensor, medoids: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (B, P, P), weights (B, P) and first medoids (B, K) -> the last, and each token's cluster (B, P)."""
        cost = (weights.unsqueeze(-1) * apart).sum(dim=-1).unsqueeze(1)
        number = torch.arange(medoids.shape[1], device=medoids.device)[:, None]
        for _ in range(self.config.iterations):
            member = take(apart, medoids).argmin(dim=1, keepdim=True) == number
            best = cost.expand(-1, len(number), -1).masked_fill(~member, float("inf")).argmin(dim=-1)
            medoids = best.masked_fill(~member.any(dim=-1), 0)
        return medoids, take(apart, medoids).argmin(dim=1)
