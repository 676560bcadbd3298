"""ELIP: prune and merge vision tokens under the guidance of the text, without parameters (arXiv 2309.16738)."""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from harness.reduction import (
    Guide,
    Schedule,
    Stack,
    StackShape,
    StagedConfig,
    TokenReducer,
    TokenState,
    split_top,
)

CLS_ATTENTION = frozenset({"cls_attention"})


class ELIPConfig(StagedConfig):
    """schedule: the paper's for ViT-B/16 in ALBEF. vision_weight: lambda. keep_tokens: K per stage, instead of keep.

    count_class_token: K = int((n0 + 1) keep) instead of int(n0 keep), as the released program does for CLIP.
    """

    schedule: Schedule = Schedule(begin=(2, 4, 10), keep=(0.9, 0.65, 0.4), lookahead=(2, 6, 2))
    vision_weight: float = Field(default=0.8, ge=0, le=1)
    count_class_token: bool = False


class ELIP(TokenReducer[ELIPConfig]):
    """At each begin block, keep the patches that the text-guided class token will attend to `lookahead` blocks on.

    The guided copy runs ahead without gradient; its last block is only observed (the class token's query, all keys).
    The others become one token, weighted by score (released program guoyang9/ELIP; paper section 3).
    """

    Config = ELIPConfig
    needs_text = True
    without_text = "all tokens (as in the paper: reduced only where a text is given)"
    needs_class_token = True

    def __init__(self, config: ELIPConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        schedule = config.schedule
        schedule.check_depth(shape.depth, lookahead=True)
        counts = config.counts(shape, shape.patches + config.count_class_token)
        self.stages = dict(zip(schedule.begin, zip(counts, schedule.lookaheads(shape.depth))))

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        count, lookahead = self.stages.get(block, (state.patches, 0))
        if guide is None or count >= state.patches:
            return state
        scores = self.score(block, lookahead, state, stack, guide)
        kept, dropped = split_top(scores, count)
        weights = scores.gather(1, dropped)
        weights = weights / (weights.sum(1, keepdim=True) + 1e-6)
        return state.keep(kept.sort(dim=1).values).append(state.pool(dropped, weights))

    @torch.no_grad()
    def score(self, block: int, lookahead: int, state: TokenState, stack: Stack, guide: Guide) -> Tensor:
        """Attention (B, P) of the guided class token in block `block + lookahead - 1`."""
        mix, tokens = self.config.vision_weight, state.tokens
        guided = mix * tokens[:, :1] + (1 - mix) * guide.text_cls.unsqueeze(1)
        ahead = replace(state, tokens=torch.cat([guided, tokens[:, 1:]], dim=1), origin=None)
        for step in range(block, block + lookahead - 1):
            ahead, _ = stack.attend(step, ahead)
            ahead = stack.feed_forward(step, ahead)
        scores = stack.observe(block + lookahead - 1, ahead, CLS_ATTENTION).cls_attention
        assert scores is not None
        return scores
