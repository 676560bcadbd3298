"""ELIP lite: ELIP with a score of one query: the block that ELIP looks ahead to is asked at once, and none runs ahead.

Source: this project; ELIP (arXiv 2309.16738) is `elip`. Exact ELIP runs a guided copy of all tokens through the blocks
up to the one whose class attention is the score: 12.2 of its 28.5 GMACs in ViT-B/16 at 256 px. Here that block reads
the tokens as they are now (blocks share one residual stream), and the guided class token's query goes through the
weights of its keys, so that no key is made: .01 GMACs. What is kept, merged and how is ELIP's.

What is lost: the tokens that are kept are not quite ELIP's, since tokens do not pass through the blocks between; how
many are the same says docs/methods.md (`check agreement elip-lite`).
"""

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
    take,
)


class ELIPLiteConfig(StagedConfig):
    """schedule, vision_weight, count_class_token: as `elip`'s.

    landmarks: this share of the patches, at even distances, pass alone through the MLPs of the blocks ahead, and every
    other one moves as the landmark most like it does; 0: none. keep_scores: only the first stage scores, later ones
    rank by what is left of its scores, the merged token by the sum of its own.
    """

    schedule: Schedule = Schedule(begin=(2, 4, 10), keep=(0.9, 0.65, 0.4), lookahead=(2, 6, 2))
    vision_weight: float = Field(default=0.8, ge=0, le=1)
    count_class_token: bool = False
    landmarks: float = Field(default=0.0, ge=0, le=1)
    keep_scores: bool = False


class ELIPLite(TokenReducer[ELIPLiteConfig]):
    """At each begin block, keep the patches that the guided class token attends to in block `begin + lookahead - 1`."""

    Config = ELIPLiteConfig
    needs_text = True
    without_text = "all tokens (as ELIP: reduced only where a text is given)"
    needs_class_token = True

    def __init__(self, config: ELIPLiteConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        schedule = config.schedule
        schedule.check_depth(shape.depth, lookahead=True)
        counts = config.counts(shape, shape.patches + config.count_class_token)
        self.stages = dict(zip(schedule.begin, zip(counts, schedule.lookaheads(shape.depth))))

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        count, lookahead = self.stages.get(block, (state.patches, 0))
        if guide is None or count >= state.patches:
            return state
        scores = state.notes.get("scores")
        if scores is None:
            scores = self.score(block, block + lookahead - 1, state, stack, guide)
        kept, dropped = split_top(scores, count)
        kept, weights = kept.sort(dim=1).values, scores.gather(1, dropped)
        merged = weights.sum(1, keepdim=True)
        reduced = state.keep(kept).append(state.pool(dropped, weights / (merged + 1e-6)))
        if not self.config.keep_scores:
            return reduced
        return reduced.noted(scores=torch.cat([scores.gather(1, kept), merged], dim=1))

    @torch.no_grad()
    def score(self, block: int, seen_by: int, state: TokenState, stack: Stack, guide: Guide) -> Tensor:
        """Attention (B, P) of the guided class token, as it enters `block`, in the later block `seen_by`."""
        mix, tokens = self.config.vision_weight, state.tokens
        guided = mix * tokens[:, :1] + (1 - mix) * guide.text_cls.unsqueeze(1)
        patches = state.patch_tokens
        if self.config.landmarks and seen_by > block:
            patches = self.moved(range(block, seen_by), patches, stack)
        ahead = torch.cat([guided, tokens[:, 1 : state.prefix], patches], dim=1)
        return stack.class_attention(seen_by, replace(state, tokens=ahead, origin=None))

    def moved(self, blocks: range, patches: Tensor, stack: Stack) -> Tensor:
        """Patches (B, P, D), each moved as the MLPs of some blocks move the landmark that is most like it."""
        total = patches.shape[1]
        count = max(1, int(total * self.config.landmarks))
        landmarks = patches[:, torch.arange(count, device=patches.device) * total // count]
        # Of the squared distance only what differs between landmarks.
        likeness = patches @ landmarks.transpose(1, 2) - landmarks.square().sum(-1).unsqueeze(1) / 2
        after = landmarks
        for block in blocks:
            after = stack.mlp(block, after)
        return patches + take(after - landmarks, likeness.argmax(dim=-1))
