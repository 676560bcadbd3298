"""ToFu: drop matched tokens in early blocks, merge them with their norm kept in late ones (arXiv 2312.01026).

Rests on the re-implementation in hchautran/PiToMe (algo/tofu), held by reference vectors; no program of the authors is
known.
"""

from dataclasses import replace
from math import floor
from typing import Literal

import torch
from torch import Tensor

from harness.reduction import Evidence, MethodConfig, Ratio, StackShape, TokenReducer, TokenState, bipartite


class ToFuConfig(MethodConfig):
    """ratio: kept in every block, of the tokens that are there. variant: the patched family of the program it rests on.

    `deit` compares keys, drops in blocks up to L // 2 and merges with the norm kept after; `mae` merges by the plain
    mean; `blip` compares the tokens themselves and merges from block 4 on.
    ratios_from_end: of `blip`, whose program reads its list of ratios [1, r, r, ...] from the end, so that the first
    block is reduced and the last is not; true, as its published figures are of that; false leaves the first block out.
    """

    ratio: Ratio = 0.9125
    variant: Literal["deit", "mae", "blip"] = "deit"
    ratios_from_end: bool = True

    def bent(self, gamma: float) -> "ToFuConfig":
        return self.model_copy(update={"ratio": max(self.ratio**gamma, 1e-9)})


class ToFu(TokenReducer[ToFuConfig]):
    """Between attention and MLP of every block, tokens at even positions go into their match at an odd one.

    A merged token is the plain mean times max(norms of what merged) / norm of the destination before; sizes are not
    kept, and so neither means nor attention know of them.
    """

    Config = ToFuConfig

    def __init__(self, config: ToFuConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        depth, blip = shape.depth, config.variant == "blip"
        spared = None if not blip else depth - 1 if config.ratios_from_end else 0
        self.working = frozenset(range(depth)) - {spared}
        self.last_dropping = 3 if blip else depth // 2

    def evidence(self, block: int) -> frozenset[str]:
        wanted = self.config.variant != "blip" and self.config.ratio < 1 and block in self.working
        return frozenset({"keys"}) if wanted else frozenset()

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        tokens = state.tokens.shape[1]
        count = floor(tokens - tokens * self.config.ratio) if block in self.working else 0
        count = min(count, state.patches // 2)
        if count == 0:
            return state
        keys = state.tokens if evidence.keys is None else evidence.keys
        source, into, rest = bipartite(keys[:, state.prefix :], state.prefix, count)
        if block <= self.last_dropping:
            return state.keep(rest)
        merged = state.merge(source, into, rest, torch.ones_like(state.patch_sizes))
        if self.config.variant != "mae":
            gain = self.gain(state.patch_tokens, source, into).gather(1, rest)
            merged = merged.with_patch_tokens(merged.patch_tokens * gain.unsqueeze(-1))
        return replace(merged, sizes=None)

    def gain(self, tokens: Tensor, source: Tensor, into: Tensor) -> Tensor:
        """(B, P), of tokens (B, P, D): the largest norm of a token and its sources over its own; 1 without sources."""
        norms = tokens.norm(dim=-1)
        return norms.scatter_reduce(1, into, norms.gather(1, source), "amax") / norms
