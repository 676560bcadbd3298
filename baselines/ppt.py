"""PPT: in each image, prune or pool, by how much the scores differ (arXiv 2310.01812)."""

from dataclasses import replace

import torch
from pydantic import Field, NonNegativeInt

from harness.reduction import (
    Evidence,
    HarnessError,
    MethodConfig,
    StackShape,
    TokenReducer,
    TokenState,
    bipartite,
    other_blocks,
    per_block,
    split_top,
)

WANTED = frozenset({"cls_attention", "value_norms", "keys"})


class PPTConfig(MethodConfig):
    """blocks: where r tokens go, fractions spread evenly. inflect: as in ToMe, of which the program spreads r over the
    whole depth and uses the first entries, one a listed block. r_per_stage: numbers instead.

    threshold: of the variance of the scores, 7e-5 in the released evaluation of DeiT-S (6e-5 in its training).
    proportional_attention: off, tokens count one each again at every stage.
    """

    blocks: tuple[NonNegativeInt, ...] = (3, 6, 9)
    r: float = Field(default=50, ge=0)
    inflect: float = Field(default=0, ge=-1, le=1)
    r_per_stage: tuple[NonNegativeInt, ...] | None = None
    threshold: float = Field(default=7e-5, ge=0)
    proportional_attention: bool = True

    def bent(self, gamma: float) -> "PPTConfig":
        if self.r_per_stage:
            raise HarnessError("r_per_stage sets the budget already: leave out r_per_stage or the ratio")
        return self.model_copy(update={"r": self.r * gamma})

    def stages(self, shape: StackShape) -> dict[int, int]:
        """How many tokens go, by block; at most half of them do. HarnessError for blocks that are not there."""
        if list(self.blocks) != sorted(set(self.blocks)):
            raise HarnessError(f"ppt blocks {list(self.blocks)}: expected rising numbers from 0 to {shape.depth - 1}")
        if self.blocks and self.blocks[-1] >= shape.depth:
            raise HarnessError(f"ppt blocks {list(self.blocks)}: {other_blocks(self.blocks, shape.depth)}")
        removed = self.r_per_stage or per_block(self.r, self.inflect, shape.depth)
        if len(removed) < len(self.blocks):
            raise HarnessError(f"r_per_stage has {len(removed)} entries for {len(self.blocks)} blocks: give one each")
        return {block: count for block, count in zip(self.blocks, removed) if count}


class PPT(TokenReducer[PPTConfig]):
    """Between attention and MLP. Score: class attention times the norm of the value, as in ATS, over its sum.

    Where the variance of an image's scores is below the threshold its tokens are all alike: ToMe's matching merges r
    of them. Else the r lowest go and the others stand by falling score. Both leave as many tokens (rests on
    xjwu1024/PPT, ppt_deit.py, tome.py).
    """

    Config = PPTConfig
    needs_class_token = True

    def __init__(self, config: PPTConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.stages = config.stages(shape)

    @property
    def proportional_attention(self) -> bool:
        return self.config.proportional_attention

    def evidence(self, block: int) -> frozenset[str]:
        return WANTED if block in self.stages else frozenset()

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        count = min(self.stages.get(block, 0), state.patches // 2)
        if evidence.cls_attention is None or evidence.value_norms is None or evidence.keys is None or count == 0:
            return state
        if not self.proportional_attention:
            state = replace(state, sizes=None)
        with torch.no_grad():
            scores = evidence.cls_attention * evidence.value_norms[:, state.prefix :]
            scores = scores / scores.sum(dim=1, keepdim=True)
            variance = scores.var(dim=1)
            kept, _ = split_top(scores, state.patches - count)
        pooled = state.merge(*bipartite(evidence.keys[:, state.prefix :], state.prefix, count))
        chosen = pooled.where(variance < self.config.threshold, state.keep(kept))
        return chosen.noted(**{f"policy_{block}": variance})
