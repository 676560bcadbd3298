"""BAT: keep the attentive tokens, matched where alike, and the clusters of the others (CVPR 2023, arXiv 2211.11315)."""

from math import ceil

import torch
from pydantic import NonNegativeInt, PositiveInt

from harness.reduction import (
    Evidence,
    HarnessError,
    MethodConfig,
    Ratio,
    Schedule,
    StackShape,
    TokenReducer,
    TokenState,
    bipartite,
    density_peaks,
    distances,
    other_blocks,
    split_top,
    take,
    validated,
)

# What clusters add over what matching takes, by keep rate: read off the GMACs of the authors' logs (docs/methods.md).
SURPLUS = {0.7: 0, 0.6: -1, 0.5: 3, 0.4: 3, 0.3: 1, 0.2: 1}


class BATConfig(MethodConfig):
    """keep_rate: ceil of the current tokens are attentive, at `blocks`. matches: pairs that merge, half at most.

    surplus: clusters of the inattentive tokens minus pairs; left out, that of the nearest published keep rate.
    neighbours: of the density.
    """

    keep_rate: Ratio = 0.7
    blocks: tuple[NonNegativeInt, ...] = (3, 6, 9)
    matches: NonNegativeInt = 8
    surplus: int | None = None
    neighbours: PositiveInt = 5

    def bent(self, gamma: float) -> "BATConfig":
        rate = max(self.keep_rate**gamma, 1e-9)
        return self.model_copy(update={"keep_rate": rate, "surplus": self.added})

    @property
    def added(self) -> int:
        """The surplus, or what the published figures say of it."""
        if self.surplus is not None:
            return self.surplus
        return SURPLUS[min(SURPLUS, key=lambda rate: abs(rate - self.keep_rate))]


class BAT(TokenReducer[BATConfig]):
    """Between attention and MLP of three blocks, by the block's own class attention.

    The authors' repository holds no program. From the paper: attentive tokens are matched with each other (bipartite,
    by cosine), inattentive ones are clustered around density peaks; what merges is the mean weighted by attention. From
    their logs: how many tokens are left. How many pairs and clusters make that number is not known, nor what tokens are
    compared by: `matches` is ours, and keys' means over heads are compared, as in ToMe.
    """

    Config = BATConfig
    needs_class_token = True

    def __init__(self, config: BATConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        rates = {"begin": config.blocks, "keep": (config.keep_rate,) * len(config.blocks)}
        if max(validated(Schedule, rates, "bat blocks").begin) >= shape.depth:
            raise HarnessError(f"bat blocks {list(config.blocks)}: {other_blocks(config.blocks, shape.depth)}")
        self.stages: dict[int, tuple[int, int, int]] = {}
        current = shape.patches
        for block in config.blocks:
            kept = ceil(config.keep_rate * current)
            if kept == current:
                continue
            pairs = min(config.matches, kept // 2)
            clusters = max(1, min(pairs + config.added, current - kept))
            self.stages[block] = kept, pairs, clusters
            current = kept - pairs + clusters

    def evidence(self, block: int) -> frozenset[str]:
        return frozenset({"cls_attention", "keys"}) if block in self.stages else frozenset()

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        scores, keys = evidence.cls_attention, evidence.keys
        if scores is None or keys is None:
            return state
        count, pairs, clusters = self.stages[block]
        with torch.no_grad():
            attentive, others = split_top(scores, count)
            keys = keys[:, state.prefix :]
            source, into, rest = bipartite(take(keys, attentive), 0, pairs)
            place = torch.arange(rest.shape[1], device=rest.device).expand_as(rest)
            matched = torch.zeros_like(attentive).scatter(1, rest, place)
            matched = matched.scatter(1, source, matched.gather(1, into))
            apart = distances(take(keys, others)) / keys.shape[-1] ** 0.5
            _, cluster = density_peaks(apart, clusters, self.config.neighbours)
            group = torch.zeros_like(state.patch_standing, dtype=torch.long).scatter(1, attentive, matched)
            group = group.scatter(1, others, cluster + rest.shape[1])
        return state.group(group, rest.shape[1] + clusters, scores, eps=1e-6)
