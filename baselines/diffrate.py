"""DiffRate: sort by class attention, prune the tail, merge the next, by learned counts (arXiv 2305.17997).

Rests on the authors' program (OpenGVLab/DiffRate), held by reference vectors in training and evaluation.
"""

from collections.abc import Mapping

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from harness.reduction import (
    Evidence,
    HarnessError,
    MethodConfig,
    Stack,
    StackShape,
    TokenReducer,
    Tokens,
    TokenState,
    policy_map,
    split_top,
)

# Learned counts start with logits tilt * candidate / n0; the tilts fall from this one to its negative over the depth.
TILT, DENSE_TILT = 8.0, 1e6


class DiffRateConfig(MethodConfig):
    """prune_kept, merge_kept: tokens left by pruning and by merging in each block, class token counted; what is more
    than there are has no effect. Without lists the counts are learned, of n0, n0 - granularity, ... patches.

    bend: exponent of a list's shares of n0, or the place where learned counts start. flops_weight: of the squared
    distance of the multiply-adds, in units of flops_unit, to target_flops (None: those of the starting counts).
    other_flops: multiply-adds outside the blocks, which a target of the program's includes.
    """

    prune_kept: tuple[PositiveInt, ...] | None = None
    merge_kept: tuple[PositiveInt, ...] | None = None
    bend: float = Field(default=1, ge=0)
    granularity: PositiveInt = 4
    flops_weight: float = Field(default=5, ge=0)
    target_flops: PositiveFloat | None = None
    flops_unit: PositiveFloat = 1e9
    other_flops: float = Field(default=0, ge=0)

    def bent(self, gamma: float) -> "DiffRateConfig":
        return self.model_copy(update={"bend": self.bend * gamma})

    def counts(self, kept: tuple[int, ...] | None, shape: StackShape) -> list[int]:
        """A list's counts on a tower, bent."""
        kept = (shape.patches + 1,) * shape.depth if kept is None else kept
        if len(kept) != shape.depth:
            raise HarnessError(f"{len(kept)} kept counts: give one for each of the {shape.depth} blocks")
        if min(kept) < 2:
            raise HarnessError(f"{min(kept)} tokens kept: expected at least 2, the class token and a patch")
        return [1 + max(1, round(shape.patches * ((count - 1) / shape.patches) ** self.bend)) for count in kept]


class LearnedCounts(nn.Module):
    """How many tokens each block leaves, as chances of candidates; the first block leaves all (DiffRate/ddp.py)."""

    def __init__(self, config: DiffRateConfig, shape: StackShape, ahead: float) -> None:
        super().__init__()
        self.patches, self.granularity = shape.patches, config.granularity
        bend = TILT * (1 / config.bend - config.bend) if config.bend > TILT / DENSE_TILT else DENSE_TILT
        shares = self.candidates(torch.zeros(())) / shape.patches
        falls = [1 - 2 * (block + ahead) / max(shape.depth - 2, 1) for block in range(shape.depth - 1)]
        self.logits = nn.ParameterList(nn.Parameter((TILT * fall + bend) * shares) for fall in falls)

    def candidates(self, like: Tensor) -> Tensor:
        """(C,), n0, n0 - granularity, ..."""
        return torch.arange(self.patches, 0, -self.granularity, dtype=like.dtype, device=like.device)

    def expected(self, block: int) -> Tensor:
        """Mean count of patches left."""
        logits = self.logits[max(block - 1, 0)]
        if block == 0:
            return torch.full_like(logits[0], self.patches)
        # The program's product, whose rounding decides where the mean is a whole number.
        return torch.matmul(self.candidates(logits), logits.softmax(dim=0))

    def count(self, block: int) -> Tensor:
        """Tokens left, class token counted: the mean rounded up, with the mean's gradient."""
        mean = self.expected(block)
        return mean.detach().ceil() + (mean - mean.detach()) + 1

    def mask(self, block: int, count: Tensor, total: Tensor) -> Tensor:
        """(B, P): 0 at places `count` to `total` (B, 1), otherwise 1; the gradient is that of the chance to stay."""
        place = torch.arange(self.patches, device=count.device)
        inside = (place + 1 >= count) & (place + 1 < total)
        if block == 0:
            return (~inside).to(count.dtype)
        logits = self.logits[block - 1]
        chance = (logits.softmax(dim=0) * (self.candidates(logits) > place.unsqueeze(1))).sum(dim=1)
        straight = (~inside).to(chance.dtype) - chance.detach() + chance
        return torch.where(inside.any(dim=1, keepdim=True), straight, 1)


class DiffRate(TokenReducer[DiffRateConfig]):
    """Merged tokens are plain means; a source adds its size times its cosine; log sizes weigh in the attention.

    Training with learned counts removes nothing: masks hide what is pruned or merged, in a softmax that they weigh,
    with gradients to the counts' logits (section 3.3; DiffRate/merge.py, patch/deit.py).
    """

    Config = DiffRateConfig
    needs_class_token = True
    sizes_count_patches = False  # a merged source counts by its cosine (DiffRate/merge.py), a pruned one not at all

    def __init__(self, config: DiffRateConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        lists = config.prune_kept, config.merge_kept
        self.kept = [] if lists == (None, None) else list(zip(*(config.counts(kept, shape) for kept in lists)))
        self.moved = False
        if self.kept:
            return
        if shape.depth == 1:
            raise HarnessError("diffrate learns no count of the first block, and the tower has 1: give it prune_kept")
        self.prune, self.merge = LearnedCounts(config, shape, 0), LearnedCounts(config, shape, 0.5)
        self.register_load_state_dict_post_hook(lambda *_: self.read_counts())
        self.read_counts()
        start = [(self.prune.expected(block) + 1, self.merge.expected(block) + 1) for block in range(shape.depth)]
        self.target = config.target_flops or float(self.flops(start).detach()) / config.flops_unit

    @property
    def proportional_attention(self) -> bool:
        return True

    @property
    def hides(self) -> bool:
        """Whether this pass hides tokens instead of removing them."""
        return self.training and self.learns

    def read_counts(self) -> None:
        """Learned counts as numbers: read once, when they were loaded or trained, not in every pass."""
        self.moved = False
        found = [(self.prune.count(block), self.merge.count(block)) for block in range(self.shape.depth)]
        self.kept = [(int(pruned), int(merged)) for pruned, merged in found]

    def train(self, mode: bool = True) -> "DiffRate":
        if self.moved and not mode:
            self.read_counts()
        super().train(mode)
        return self

    def evidence(self, block: int) -> frozenset[str]:
        reduces = self.hides or min(map(min, self.kept)) <= self.shape.patches
        return frozenset({"cls_attention"}) if reduces else frozenset()

    def attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        if not self.hides:
            return super().attention(block, q, k, v, state, stack)
        return policy_map(q, k, state.policy, bias=state.log_sizes) @ v, state

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        scores = evidence.cls_attention
        if scores is None:
            return state
        if self.hides:
            return self.hide(block, state, scores)
        pruned, merged = (min(count - 1, state.patches) for count in self.kept[block])
        state = state.keep(split_top(scores, pruned)[0])
        if merged >= pruned:
            return state
        with torch.no_grad():
            unit = F.normalize(state.patch_tokens, dim=-1)
            cosine, into = (unit[:, merged:] @ unit[:, :merged].transpose(1, 2)).max(dim=-1)
        place = torch.arange(pruned, device=into.device).expand(len(into), -1)
        sizes = state.patch_sizes.scatter_add(1, into, state.patch_sizes[:, merged:] * cosine)
        state = state.merge(place[:, merged:], into, place[:, :merged], torch.ones_like(sizes))
        # The program lets a negative cosine subtract; a size that reaches 0 would have no logarithm.
        return state.with_patch_sizes(sizes[:, :merged].clamp(min=1e-6))

    def hide(self, block: int, state: TokenState, scores: Tensor) -> TokenState:
        """The same in training: tokens are sorted and stay, masks and sizes change."""
        self.moved = True
        state = state.keep(split_top(scores.masked_fill(~state.patch_standing, -1), state.patches)[0])
        tokens, sizes = state.patch_tokens, state.patch_sizes
        here = state.patch_standing.sum(dim=1, keepdim=True) + 1
        pruned, merged = self.prune.count(block), self.merge.count(block)
        left = here.minimum(pruned.detach().to(here.dtype))
        mask = self.prune.mask(block, pruned, here) * self.merge.mask(block, merged, left)
        place = torch.arange(1, state.patches + 1, device=here.device)
        source = ((place >= merged) & (place < left)).to(tokens.dtype)
        with torch.no_grad():
            unit = F.normalize(tokens, dim=-1)
            alike = (unit @ unit.transpose(1, 2)).masked_fill(place >= merged, -float("inf"))
            cosine, into = alike.max(dim=-1)
        merging = source.any(dim=1, keepdim=True)
        scaled = torch.where(source > 0, sizes * cosine, sizes)
        scaled = torch.where(merging & (place < left), scaled.clamp(min=1), scaled)
        sizes = scaled.scatter_add(1, into, scaled * source)
        moving = source.unsqueeze(-1) * tokens
        wide = into.unsqueeze(-1).expand_as(tokens)
        mean = tokens.scatter_add(1, wide, moving) / torch.ones_like(sizes).scatter_add(1, into, source).unsqueeze(-1)
        state = state.with_patch_tokens(mean).hide(mask)
        return state.with_patch_sizes(sizes)

    def flops(self, kept: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """Multiply-adds of an image by counts (engine.py); both counts of a block have the gradient of the smaller."""
        if kept is None and self.learns:
            kept = [(self.prune.count(block), self.merge.count(block)) for block in range(self.shape.depth)]
        elif kept is None:
            kept = [(torch.tensor(pruned), torch.tensor(merged)) for pruned, merged in self.kept]
        # In float64: float32 does not tell numbers of this size apart.
        width, place = self.shape.width, kept[0][0].device
        now = torch.tensor(self.shape.patches + 1, dtype=torch.float64, device=place)
        total = torch.tensor(self.config.other_flops, dtype=torch.float64, device=place)
        for pruned, merged in kept:
            total = total + 4 * now * width**2 + 2 * now**2 * width
            least = torch.minimum(now, torch.minimum(pruned, merged)).detach()
            now = least + (pruned - pruned.detach()) + (merged - merged.detach())
            total = total + 8 * now * width**2
        return total

    def losses(self, tokens: Tokens, dense: Tokens | None) -> Mapping[str, Tensor]:
        if not self.learns:
            return {}
        distance = self.flops() / self.config.flops_unit - self.target
        return {"flops": (self.config.flops_weight * distance.square()).to(tokens.states.dtype)}
