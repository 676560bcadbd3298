"""LTMP: merge what is more alike, prune what matters less, than a learned threshold of each block (arXiv 2307.10780).

Rests on the authors' program (Mxbonn/ltmp), held by reference vectors in training and evaluation.
"""

from collections.abc import Mapping

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from harness.reduction import (
    Evidence,
    MethodConfig,
    Ratio,
    Stack,
    StackShape,
    TokenReducer,
    Tokens,
    TokenState,
    attention_map,
    even_and_odd,
    policy_map,
)


class LTMPConfig(MethodConfig):
    """merge_threshold, prune_threshold: where every block's begin, of cosines and of mean attention received.

    bend: scales how far from 1 the first begins, and how far from 0 the second. tau: temperature of the sigmoid that
    carries their gradients (.1; the program's command line has .5). flops_weight: of the squared distance of the share
    of multiply-adds to reduction_target, which is the ratio where one is asked for.
    """

    merge_threshold: float = Field(default=0.9, ge=0, le=1)
    prune_threshold: float = Field(default=0, ge=0, le=1)
    bend: float = Field(default=1, ge=0)
    tau: PositiveFloat = 0.1
    flops_weight: float = Field(default=10, ge=0)
    reduction_target: Ratio = 0.75

    def bent(self, gamma: float) -> "LTMPConfig":
        return self.model_copy(update={"bend": self.bend * gamma})

    def aimed(self, ratio: float) -> "LTMPConfig":
        return self.model_copy(update={"reduction_target": ratio})


class LTMP(TokenReducer[LTMPConfig]):
    """Between attention and MLP, tokens at even positions merge into their match at odd ones, if alike enough.

    Then those go whose importance, the mean attention that they receive, is not above the other threshold. Training
    removes nothing: masks hide tokens in the softmax, and tokens stand in the order even, odd (section 3).
    """

    Config = LTMPConfig
    adaptive = True

    def __init__(self, config: LTMPConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        alike = max(0.0, 1 - (1 - config.merge_threshold) * config.bend)
        unimportant = min(1.0, config.prune_threshold * config.bend)
        self.merge = nn.ParameterList(nn.Parameter(torch.tensor([alike])) for _ in range(shape.depth))
        self.prune = nn.ParameterList(nn.Parameter(torch.tensor([unimportant])) for _ in range(shape.depth))

    @property
    def proportional_attention(self) -> bool:
        return True

    @property
    def idle(self) -> bool:
        """Whether nothing is reduced, at a ratio of 1."""
        return self.config.bend == 0

    def opened(self, state: TokenState, stack: Stack, guide: object) -> TokenState:
        if self.training:
            # As after every step of the program's training.
            with torch.no_grad():
                for threshold in self.parameters():
                    threshold.clamp_(0, 1)
        return state

    def evidence(self, block: int) -> frozenset[str]:
        return frozenset() if self.idle else frozenset({"keys"})

    def attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        if self.idle:
            return super().attention(block, q, k, v, state, stack)
        if self.training:
            full = policy_map(q, k, state.policy, eps=1e-5, own=False, bias=state.log_sizes)
            return full @ v, state.noted(importance=full.mean((1, 2)))
        full, standing = attention_map(q, k, stack.bias(state, True)), state.standing
        if standing is None:
            return full @ v, state.noted(importance=full.mean((1, 2)))
        # Padding asks for nothing: an image's importances do not depend on the others of its batch.
        asked = (full.mean(1) * standing.unsqueeze(2)).sum(1) / standing.sum(1, keepdim=True)
        return full @ v, state.noted(importance=asked)

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        if evidence.keys is None:
            return state
        unit = F.normalize(evidence.keys[:, state.prefix :], dim=-1)
        importance = state.notes["importance"][:, state.prefix :]
        even, odd = even_and_odd(state.patches, state.prefix, unit.device)
        if self.training:
            return self.hide_more(block, state, unit, importance, even, odd)
        here, threshold = state.patch_standing, self.merge[block]
        if min(len(even), len(odd)) > 0:
            cosine = (unit[:, even] @ unit[:, odd].transpose(1, 2)).masked_fill(~here[:, None, odd], -float("inf"))
            best, match = cosine.max(dim=-1)
            # No cosine is above 1, but rounding may say so.
            merges = (best > threshold) & (threshold < 1) & here[:, even]
            state, importance = self.merged(state, importance, merges.to(unit.dtype), even, odd[match])
            here = here.index_copy(1, even, here[:, even] & ~merges)
        threshold = self.prune[block]
        here = here & ((importance > threshold) | (threshold <= 0))
        return self.ordered(state.hide(here), even, odd).packed()

    def merged(
        self, state: TokenState, importance: Tensor, merges: Tensor, even: Tensor, into: Tensor
    ) -> tuple[TokenState, Tensor]:
        """Tokens at `even` places added into those at `into` (B, E) where merges (B, E) is 1; they stay as they are."""
        sizes = state.patch_sizes
        moving = sizes[:, even] * merges
        weighted = state.patch_tokens * sizes.unsqueeze(-1)
        wide = into.unsqueeze(-1).expand(-1, -1, weighted.shape[-1])
        added = weighted.scatter_add(1, wide, weighted[:, even] * merges.unsqueeze(-1))
        sizes = sizes.scatter_add(1, into, moving)
        importance = importance.scatter_reduce(1, into, importance[:, even] * merges, "amax")
        state = state.with_patch_tokens(added / sizes.unsqueeze(-1)).with_patch_sizes(sizes)
        places = torch.arange(state.patches, device=even.device).repeat(len(into), 1)
        return state.relocated(places.index_copy(1, even, torch.where(merges > 0.5, into, even))), importance

    def ordered(self, state: TokenState, even: Tensor, odd: Tensor) -> TokenState:
        return state.keep(torch.cat([even, odd]).expand(len(state.tokens), -1))

    def hide_more(
        self, block: int, state: TokenState, unit: Tensor, importance: Tensor, even: Tensor, odd: Tensor
    ) -> TokenState:
        """The same in training, where masks change and every token stays."""
        mask = state.policy[:, state.prefix :]
        unit = unit * mask.detach().unsqueeze(-1)
        best, match = (unit[:, even] @ unit[:, odd].transpose(1, 2)).max(dim=-1)
        merges = self.above(best, self.merge[block])
        state, importance = self.merged(state, importance, merges.detach(), even, odd[match])
        mask = mask.index_copy(1, even, torch.where(mask[:, even] > 0.5, 1 - merges, mask[:, even]))
        mask = torch.where(mask > 0.5, self.above(importance, self.prune[block]), mask)
        state = self.ordered(state.with_mask(mask), even, odd)
        assert state.mask is not None
        return state.noted(**{f"mask_{block}": state.mask})

    def above(self, values: Tensor, threshold: Tensor) -> Tensor:
        """1 where values are above the threshold, otherwise 0; the gradient is the sigmoid's (threshold_masking.py)."""
        soft = ((values - threshold) / self.config.tau).sigmoid()
        return (soft.detach() > 0.5).to(soft.dtype) + (soft - soft.detach())

    def flops_ratio(self, tokens: Tokens) -> Tensor:
        """Share of the blocks' multiply-adds that the masks leave, on the mean of a batch (tools/train.py)."""
        width, total = self.shape.width, tokens.states.shape[1]
        before, spent = tokens.states.new_ones(()), []
        for block in range(self.shape.depth):
            after = tokens.notes[f"mask_{block}"].mean()
            spent.append(2 * before * total * width**2 + (before * total) ** 2 * width + 4 * after * total * width**2)
            before = after
        return torch.stack(spent).mean() / (6 * total * width**2 + total**2 * width)

    def losses(self, tokens: Tokens, dense: Tokens | None) -> Mapping[str, Tensor]:
        if "mask_0" not in tokens.notes:
            return {}
        distance = self.flops_ratio(tokens) - self.config.reduction_target
        return {"flops": self.config.flops_weight * distance.square()}
