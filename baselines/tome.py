"""ToMe: merge the most similar tokens in every block by bipartite matching of their keys (arXiv 2210.09461)."""

import torch
from pydantic import Field, NonNegativeInt
from torch.nn import functional as F

from harness.reduction import Evidence, HarnessError, MethodConfig, TokenReducer, TokenState, per_block, phase


class ToMeConfig(MethodConfig):
    """r: tokens merged per block, fractions spread evenly; inflect: -1 falls to 0, 1 rises from 0; or r per block."""

    r: float = Field(default=8, ge=0)
    inflect: float = Field(default=0, ge=-1, le=1)
    r_per_block: tuple[NonNegativeInt, ...] | None = None
    proportional_attention: bool = True

    def bent(self, gamma: float) -> "ToMeConfig":
        if self.r_per_block:
            raise HarnessError("r_per_block sets the budget already: leave out r_per_block or the ratio")
        return self.model_copy(update={"r": float(gamma)})

    def merges(self, depth: int) -> list[int]:
        """Tokens to merge in each block, before the cap (section 3, 'merging schedule'; utils.parse_r)."""
        if self.r_per_block is not None:
            return [*self.r_per_block, *[0] * depth][:depth]
        return per_block(self.r, self.inflect, depth)


class ToMe(TokenReducer[ToMeConfig]):
    """Between attention and MLP of every block, merge r tokens at even positions into their match at an odd one.

    Positions count from the front of the whole sequence; prefix tokens take no part. Sizes make means weighted and,
    with proportional attention, the tower adds log sizes to the keys' logits.
    """

    Config = ToMeConfig

    @property
    def proportional_attention(self) -> bool:
        return self.config.proportional_attention

    def evidence(self, block: int) -> frozenset[str]:
        return frozenset({"keys"}) if self.config.merges(self.shape.depth)[block] else frozenset()

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        count = min(self.config.merges(self.shape.depth)[block], state.patches // 2)
        if evidence.keys is None or count == 0:
            return state
        position = torch.arange(state.patches, device=state.tokens.device)
        even, odd = position[state.prefix % 2 :: 2], position[(state.prefix + 1) % 2 :: 2]
        with torch.no_grad(), phase("matching"):
            metric = F.normalize(evidence.keys[:, state.prefix :], dim=-1)
            similarity, match = (metric[:, even] @ metric[:, odd].transpose(1, 2)).max(dim=-1)
            order = torch.sort(similarity, dim=1, descending=True, stable=True).indices
            best, others = order[:, :count], order[:, count:].sort(dim=1).values
            source, into = even[best], odd[match.gather(1, best)]
            rest = torch.cat([even[others], odd.expand(len(order), -1)], dim=1)
        return state.merge(source, into, rest)
