"""PiToMe: merge where tokens are many and alike, protect the rare ones (Energy, arXiv 2405.16148).

Rests on the authors' program (hchautran/PiToMe, algo/pitome), held by reference vectors of its three variants.
"""

from math import ceil, floor
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.reduction import (
    Evidence,
    HarnessError,
    MethodConfig,
    Ratio,
    StackShape,
    TokenReducer,
    TokenState,
    split_top,
)

# Margin of the energy at block l of L: (start - start * l / L).
MARGINS = {"deit": 0.75, "mae": 0.75, "blip": 0.9}


class PiToMeConfig(MethodConfig):
    """ratio: kept in every block, of the patches that are there. variant: the patched family of the released program.

    `deit` and `mae` compare keys, `blip` the tokens themselves. `deit` matches all tokens in the first half of the
    blocks and those of high energy in the second, `mae` the other way round, `blip` those of high energy in all.
    margins: of the energy, one a block; left out, they fall from .75 (`blip`: .9) to 0 over the depth.
    ratios_from_end: of `blip`, whose program reads its list of ratios [1, r, r, ...] from the end, so that the first
    block is reduced and the last is not; true, as its published figures are of that; false leaves the first block out.
    """

    ratio: Ratio = 0.9125
    variant: Literal["deit", "mae", "blip"] = "deit"
    margins: tuple[float, ...] | None = None
    ratios_from_end: bool = True

    def bent(self, gamma: float) -> "PiToMeConfig":
        return self.model_copy(update={"ratio": max(self.ratio**gamma, 1e-9)})


class PiToMe(TokenReducer[PiToMeConfig]):
    """Between attention and MLP of every block; sizes weigh in the means, and never in the attention.

    energy_i = mean over j (i included) of elu(cos_ij - margin). Selection carries no gradient (section 3.2).
    """

    Config = PiToMeConfig

    def __init__(self, config: PiToMeConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        start, depth = MARGINS[config.variant], shape.depth
        self.margins = config.margins or tuple(start - start * block / depth for block in range(depth))
        if len(self.margins) != depth:
            raise HarnessError(f"margins has {len(self.margins)} entries: give one for each of the {depth} blocks")
        spared = None if config.variant != "blip" else depth - 1 if config.ratios_from_end else 0
        self.working = frozenset(range(depth)) - {spared}
        half = range(ceil(depth / 2))
        self.matches_all = {
            "deit": frozenset(half),
            "mae": frozenset(range(depth)) - set(half),
            "blip": frozenset[int](),
        }[config.variant]

    def count(self, block: int, patches: int) -> int:
        """How many of the patches merge in a block, at most half of them."""
        merged = floor(patches - patches * self.config.ratio) if block in self.working else 0
        return min(merged, patches // 2)

    def evidence(self, block: int) -> frozenset[str]:
        wanted = self.config.variant != "blip" and self.config.ratio < 1 and block in self.working
        return frozenset({"keys"}) if wanted else frozenset()

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        count = self.count(block, state.patches)
        if count == 0:
            return state
        keys = state.tokens if evidence.keys is None else evidence.keys
        with torch.no_grad():
            unit = F.normalize(keys[:, state.prefix :], dim=-1)
            source, into, rest = self.match(block, unit @ unit.transpose(1, 2), count)
        return state.merge(source, into, rest)

    def match(self, block: int, cosine: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """From cosines (B, P, P): sources and destinations (B, R), and what remains (B, P - R) in its order."""
        energy = F.elu(cosine - self.margins[block]).mean(dim=-1)
        order = torch.sort(energy, dim=1, descending=True, stable=True).indices
        everything = block in self.matches_all
        free, protected = (order, order[:, :0]) if everything else (order[:, : 2 * count], order[:, 2 * count :])
        one, other = free[:, ::2], free[:, 1::2]
        rows = cosine.gather(1, one.unsqueeze(-1).expand(-1, -1, cosine.shape[-1]))
        best = rows.gather(2, other.unsqueeze(1).expand(-1, one.shape[1], -1)).max(dim=-1)
        first, left = split_top(best.values, count) if everything else (None, None)
        into = other.gather(1, best.indices)
        if first is None or left is None:
            return one, into, torch.cat([protected, other], dim=1)
        return one.gather(1, first), into.gather(1, first), torch.cat([one.gather(1, left), other], dim=1)
