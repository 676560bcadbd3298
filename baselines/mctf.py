"""MCTF: fuse tokens that are alike, uninformative and small, one step ahead of their attention (arXiv 2403.10030).

Rests on the authors' program (mlvlab/MCTF), held by reference vectors; the poolings that none holds are read from it.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import floor
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from harness.reduction import (
    Evidence,
    Guide,
    HarnessError,
    MethodConfig,
    Stack,
    StackShape,
    TokenReducer,
    Tokens,
    TokenState,
    add_to,
    attention_map,
    even_and_odd,
    phase,
    split_top,
    take,
)


class MCTFConfig(MethodConfig):
    """r: tokens fused in each of `blocks` (None: all but the first), below 1 a share of the patches; `bend` scales it.

    one_step_ahead: 1 scores and fuses the attention of the tokens before they fuse; 2 computes it anew for the fused
    ones; 0 fuses after the MLP. tau_sim, tau_info, tau_size: temperatures of similarity, informativeness and size; 0
    leaves one out. bidirectional: half of r goes from even to odd positions, the rest back. pooling: weights of the
    means, `attention` received times size, `size`, `mean` (each one), or the elementwise `max`.
    consistency_weight: of the class token's squared distance to the unreduced tower's, in training.
    """

    r: float = Field(default=16, ge=0)
    blocks: tuple[int, ...] | None = None
    bend: float = Field(default=1, ge=0)
    one_step_ahead: Literal[0, 1, 2] = 1
    proportional_attention: bool = True
    tau_sim: float = Field(default=1, ge=0)
    tau_info: float = Field(default=20, ge=0)
    tau_size: float = Field(default=40, ge=0)
    bidirectional: bool = True
    pooling: Literal["size", "attention", "max", "mean"] = "attention"
    consistency_weight: float = Field(default=3, ge=0)

    def bent(self, gamma: float) -> "MCTFConfig":
        return self.model_copy(update={"bend": self.bend * gamma})


class MCTF(TokenReducer[MCTFConfig]):
    """score = ((cos + 1) / 2)^(1 / tau_sim) (I_i I_j)^(1 / tau_info) (S_i S_j)^(1 / tau_size) (section 3.2).

    I: 1 / attention received, S: 1 / size, each over its largest. Selection and weights carry no gradient.
    """

    Config = MCTFConfig

    def __init__(self, config: MCTFConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        blocks = tuple(range(1, shape.depth)) if config.blocks is None else config.blocks
        if not blocks and config.blocks is None:
            raise HarnessError("mctf fuses in all blocks but the first, and the tower has 1: give it blocks=[0]")
        if not blocks or not all(0 <= block < shape.depth for block in blocks):
            raise HarnessError(f"mctf blocks {list(blocks)}: expected some of the tower's, 0 to {shape.depth - 1}")
        self.place = {block: place for place, block in enumerate(sorted(set(blocks)))}
        self.needs_dense = config.consistency_weight > 0 and shape.class_token

    @property
    def proportional_attention(self) -> bool:
        return self.config.proportional_attention

    def count(self, block: int, state: TokenState) -> int:
        """How many tokens fuse in a block; ten are left, and no more than half go."""
        if block not in self.place:
            return 0
        tokens, place, r = state.tokens.shape[1], self.place[block], self.config.r * self.config.bend
        if self.config.r < 1:
            wanted = int((tokens - 1) * min(r, 1)) if tokens - r >= 10 else 0
        else:
            wanted = min(floor((place + 1) * r) - floor(place * r), tokens - 10)
        return max(0, min(wanted, state.patches // 2))

    def ahead(self, mode: int, block: int, state: TokenState) -> int:
        """How many tokens fuse in a block, if it is in this mode that they do."""
        return self.count(block, state) if self.config.one_step_ahead == mode else 0

    def takes_values(self, block: int, state: TokenState) -> bool:
        return self.ahead(1, block, state) == 0

    def evidence(self, block: int) -> frozenset[str]:
        wanted = self.config.one_step_ahead == 0 and self.config.bend > 0 and block in self.place
        return frozenset({"attention_received"}) if wanted else frozenset()

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        count = self.ahead(2, block, state)
        if count == 0:
            return state
        with torch.no_grad():
            q, k = stack.query_and_keys(block, state.tokens, state.tokens.shape[1])
            q, k = stack.placed(block, q, k, state)
            received = attention_map(q, k, stack.bias(state, self.proportional_attention)).mean((1, 2))
        return self.fuse(state, *self.match(state, received, count), received)

    def attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        count = self.ahead(1, block, state)
        if count == 0:
            return super().attention(block, q, k, v, state, stack)
        full = attention_map(q, k, stack.bias(state, self.proportional_attention))
        received, heads, prefix = full.detach().mean((1, 2)), full.shape[1], state.prefix
        source, into, rest = self.match(state, received, count)
        keys = full.permute(0, 3, 1, 2).flatten(2)  # (B, N, H N): what every query gives to a key
        summed = torch.cat([keys[:, :prefix], take(add_to(keys[:, prefix:], source, into), rest)], dim=1)
        queries = replace(state, tokens=summed.unflatten(2, (heads, -1)).permute(0, 3, 2, 1).flatten(2), origin=None)
        queries = self.fuse(queries, source, into, rest, received)
        attention = queries.tokens.unflatten(2, (heads, -1)).transpose(1, 2)
        fused = self.fuse(state, source, into, rest, received)
        return attention @ stack.values(block, fused.tokens), fused

    def after_block(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        received, count = evidence.attention_received, self.ahead(0, block, state)
        if received is None or count == 0:
            return state
        return self.fuse(state, *self.match(state, received.detach(), count), received.detach())

    @torch.no_grad()
    def match(self, state: TokenState, received: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Sources and the tokens that they end in (B, R), and what remains (B, P - R); received: (B, N)."""
        first_way = count // 2 if self.config.bidirectional else count
        even, odd = even_and_odd(state.patches, state.prefix, state.tokens.device)
        score = self.score(state, received, even, odd)
        best, match = score.max(dim=-1)
        going, staying = split_top(best, first_way)
        staying = staying.sort(dim=1).values
        source, into, left = even[going], odd[match.gather(1, going)], even[staying]
        if not self.config.bidirectional:
            return source, into, torch.cat([left, odd.expand(len(left), -1)], dim=1)
        best, match = take(score, staying).max(dim=1)
        back, others = split_top(best, count - first_way)
        home = left.gather(1, match.gather(1, back))
        # What a token absorbed on the first way goes with it on the second.
        places = torch.arange(state.patches, device=even.device).repeat(len(left), 1).scatter(1, odd[back], home)
        into = torch.cat([places.gather(1, into), home], dim=1)
        return torch.cat([source, odd[back]], dim=1), into, torch.cat([left, odd[others]], dim=1)

    def score(self, state: TokenState, received: Tensor, even: Tensor, odd: Tensor) -> Tensor:
        """(B, even, odd): how much two tokens should fuse."""
        unit = F.normalize(state.patch_tokens, dim=-1)
        with phase("matching"):
            score = (unit[:, even] @ unit[:, odd].transpose(1, 2)).add(1).div(2).clamp(min=0)
        score = score ** (1 / self.config.tau_sim) if self.config.tau_sim else torch.ones_like(score)
        for tau, rare in ((self.config.tau_info, received), (self.config.tau_size, state.sizes)):
            if tau and rare is not None:
                factor = rare.amin(dim=1, keepdim=True) / rare
                factor = (factor ** (1 / tau))[:, state.prefix :]
                score = score * factor[:, even].unsqueeze(2) * factor[:, odd].unsqueeze(1)
        return score

    def fuse(self, state: TokenState, source: Tensor, into: Tensor, rest: Tensor, received: Tensor) -> TokenState:
        """Merge sources by the pooling."""
        pooling, sizes = self.config.pooling, state.patch_sizes
        weights = {"attention": received[:, state.prefix :] * sizes, "mean": torch.ones_like(sizes)}.get(pooling)
        merged = state.merge(source, into, rest, weights)
        if pooling != "max":
            return merged
        wide = into.unsqueeze(-1).expand(-1, -1, state.tokens.shape[-1])
        largest = state.patch_tokens.scatter_reduce(1, wide, take(state.patch_tokens, source), "amax")
        return merged.with_patch_tokens(take(largest, rest))

    def losses(self, tokens: Tokens, dense: Tokens | None) -> Mapping[str, Tensor]:
        if dense is None:
            return {}
        return {"consistency": self.config.consistency_weight * self.consistency(tokens, dense).mean()}

    def consistency(self, tokens: Tokens, teacher: Tokens) -> Tensor:
        """(B,), mean squared distance of the class token to the teacher's."""
        return (teacher.states[:, 0].detach() - tokens.states[:, 0]).square().mean(dim=-1)
