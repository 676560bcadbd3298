"""TRIPS: keep the patches that the text attends to, fuse the others into one token (Jiang et al., EMNLP 2022).

Rests on the paper's description and a third party's notes; no program was seen. Selection is EViT's, with the text's
class token in the place of the image's: it goes through the block's own norm and query projection, so there is no new
parameter, and meets the block's own keys.
"""

from dataclasses import replace

from torch import Tensor

from harness.reduction import (
    Evidence,
    Guide,
    RatedConfig,
    Stack,
    StackShape,
    TokenReducer,
    TokenState,
    attention_map,
    phase,
    split_top,
)

QUERY, SCORES = "trips_query", "trips_scores"


class TRIPSConfig(RatedConfig):
    """The blocks are those of TRIPS's ViT-B/16."""

    blocks: tuple[int, ...] = (5, 10)


class TRIPS(TokenReducer[TRIPSConfig]):
    """Between attention and MLP of two blocks, by the text's attention to the patches; weights carry gradient.

    The text's query is made on the block's input and travels in the state's notes to the block's keys.
    """

    Config = TRIPSConfig
    needs_text = True
    without_text = "all tokens"

    def __init__(self, config: TRIPSConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.counts = config.counts("trips", shape, pooled=True)

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if guide is None or block not in self.counts:
            return state
        query, _ = stack.query_and_keys(block, guide.text_cls.unsqueeze(1))
        return state.noted(**{QUERY: query})

    def attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        attended, state = super().attention(block, q, k, v, state, stack)
        query = state.notes.get(QUERY)
        if query is None:
            return attended, state
        with phase("scoring"):
            scores = attention_map(query, k[:, :, state.prefix :])[:, :, 0].mean(1)
        return attended, replace(state, notes={SCORES: scores})

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        scores = state.notes.get(SCORES)
        if scores is None:
            return state
        kept, dropped = split_top(scores, self.counts[block])
        fused = state.pool(dropped, scores.gather(1, dropped))
        return replace(state.keep(kept).append(fused), notes={})
