"""ToMe: merge the most similar tokens in every block by bipartite matching of their keys (arXiv 2210.09461)."""

from pydantic import Field, NonNegativeInt

from harness.reduction import Evidence, HarnessError, MethodConfig, TokenReducer, TokenState, bipartite, per_block


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

    def remarks(self) -> list[str]:
        left, lines = self.shape.patches, []
        for block, asked in enumerate(self.config.merges(self.shape.depth)):
            if asked > left // 2:
                lines.append(
                    f"tome: {asked} tokens to merge in block {block}, where {left} are: half of them at most merge"
                )
            left -= min(asked, left // 2)
        return lines[:1] + [f"tome: the same in {len(lines) - 1} more blocks"] * (len(lines) > 1)

    def evidence(self, block: int) -> frozenset[str]:
        return frozenset({"keys"}) if self.config.merges(self.shape.depth)[block] else frozenset()

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        count = min(self.config.merges(self.shape.depth)[block], state.patches // 2)
        if evidence.keys is None or count == 0:
            return state
        return state.merge(*bipartite(evidence.keys[:, state.prefix :], state.prefix, count))
