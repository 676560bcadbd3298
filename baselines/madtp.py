"""MADTP: alignment tokens that both modalities share say which tokens matter, and how many (arXiv 2403.02991).

Rests on the released program (double125/MADTP, models/vit.py, med.py, utils.py), with two differences by default:
the program keeps as many tokens of every image as the image of its batch that needs most, and lets padding take part;
here each image and text has its own count (`by_batch` brings the program's back). A text keeps its order, which causal
blocks need, and its last token stays and reads the pooled one; the program leaves the order to `topk`, and in CLIP
reduces nothing while that would reach the last token.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from harness.reduction import (
    Evidence,
    Guide,
    MethodConfig,
    Pooled,
    Stack,
    StackShape,
    TokenReducer,
    Tokens,
    TokenState,
    attention_map,
    phase,
)

SCORES, IMPORTANCE, LAST = "madtp_scores", "madtp_importance", "madtp_last"
ALIGNED, OF_TEXT = "madtp_aligned", "madtp_text_aligned"
EPS = 1e-8
# Below this bend softmax picks one token at any temperature: what is asked for above what is left then is all tokens.
COLDEST = 2.0**-40


class MADTPConfig(MethodConfig):
    """temperature: the only dial, 0 removes nothing, higher removes more (the program searches it for a cost).

    alignment_tokens: T, rows of the one parameter that both sides share; alignment_width: their channels, by default
    the tower's (768 in the program); mapped: a Linear takes each side's tokens to that width, which it does in any case
    where the widths differ (CLIP's program always has it, BLIP's never).
    least: fewer kept tokens than that, and a block removes none (1 in BLIP, 2 in CLIP). loss_weight: of the alignment.
    by_batch: the program's count, the largest of the batch, padding included.
    """

    temperature: float = Field(default=1.0, ge=0)
    alignment_tokens: PositiveInt = 100
    alignment_width: PositiveInt | None = None
    mapped: bool = False
    least: PositiveInt = 1
    loss_weight: float = Field(default=0.1, ge=0)
    by_batch: bool = False

    def bent(self, gamma: float) -> "MADTPConfig":
        return self.model_copy(update={"temperature": self.temperature * gamma if gamma >= COLDEST else 0.0})


class MADTP(TokenReducer[MADTPConfig]):
    """Between attention and MLP of every block keep what is above a threshold, pool the rest by importance.

    t = tokens times alignment tokens, of the block's input. importance = (a + b + c) / 3: attention received (largest
    over heads), largest t, class attention by the heads' shares of the output. threshold = min over alignment tokens of
    the mean importance under softmax(t / temperature).
    """

    Config = MADTPConfig
    stacks = frozenset({"vision", "text"})
    needs_class_token = True
    adaptive = True

    def __init__(self, config: MADTPConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        width = config.alignment_width or shape.width
        self.alignment = nn.Parameter(torch.randn(config.alignment_tokens, width))
        sides = {"vision": shape} | {kind: side for kind, side in shape.beside.items() if kind in self.stacks}
        mapped = {kind: side.width for kind, side in sides.items() if config.mapped or side.width != width}
        self.maps = nn.ModuleDict({kind: nn.Linear(channels, width) for kind, channels in mapped.items()})

    def opened(self, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        of_text = None if guide is None or stack.shape.kind != "vision" else guide.notes.get(ALIGNED)
        return state if of_text is None else state.noted(**{OF_TEXT: of_text})

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if not self.training and self.config.temperature == 0:
            return state
        tokens = state.patch_tokens
        mapped = self.maps[stack.shape.kind](tokens) if stack.shape.kind in self.maps else tokens
        scores = mapped @ self.alignment.T
        if self.training:
            here = self.counted(state).unsqueeze(-1)
            weights = (scores / self.alignment.shape[1] ** 0.5).masked_fill(~here, -torch.inf)
            aligned = weights.softmax(dim=1).transpose(1, 2) @ mapped
            state = state.noted(**{ALIGNED: aligned + state.notes.get(ALIGNED, 0)})
        return state.noted(**{SCORES: scores}) if self.config.temperature else state

    def counted(self, state: TokenState) -> Tensor:
        """(B, P), the tokens that take part: those that stand, or all in the released program."""
        here = state.patch_standing
        return torch.ones_like(here) if self.config.by_batch else here

    def attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        if SCORES not in state.notes:
            return super().attention(block, q, k, v, state, stack)
        weights = attention_map(q, k, stack.bias(state, False))
        attended = F.dropout(weights, stack.attention_dropout(block)) @ v
        skip = state.prefix
        heads = attended[:, :, skip:].norm(dim=-1)
        by_class = (weights[:, :, 0, skip:] * heads / (heads.sum(dim=1, keepdim=True) + EPS)).sum(dim=1)
        found = importance(weights[:, :, skip:, skip:], state.notes[SCORES], by_class, self.counted(state))
        if stack.shape.causal:
            state = state.noted(**{LAST: state.patch_standing.sum(dim=1, keepdim=True) - 1})
        return attended, state.noted(**{IMPORTANCE: found})

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        notes = dict(state.notes)
        found, scores, last = (notes.pop(name, None) for name in (IMPORTANCE, SCORES, LAST))
        state = replace(state, notes=notes)
        return state if found is None or scores is None else self.reduced(state, found, scores, last)

    def reduced(self, state: TokenState, found: Tensor, scores: Tensor, last: Tensor | None = None) -> TokenState:
        """Importance (B, P) and scores (B, P, T) -> kept tokens by falling importance, then the pooled one.

        last: (B, 1), of a causal text the token that stays last: the kept ones then stand as they stood, the pooled one
        before it.
        """
        config, here = self.config, self.counted(state)
        with phase("predictor"):
            counted = scores.masked_fill(~here.unsqueeze(-1), -torch.inf)
            # The largest becomes 0 first: at low temperatures the quotient of others would be beyond all numbers.
            focus = ((counted - counted.amax(dim=1, keepdim=True)) / config.temperature).softmax(dim=1)
            threshold = (focus.transpose(1, 2) @ found.unsqueeze(-1)).amin(dim=1)
        count = ((found > threshold) & here).sum(dim=1, keepdim=True)
        count = count.amax().expand_as(count) if config.by_batch else count
        acts = (count >= config.least) & (here.sum(dim=1, keepdim=True) - count > 1)
        first = found.detach().masked_fill(~here, -torch.inf)
        first = first if last is None else first.scatter(1, last, torch.inf)
        falling = torch.sort(first, dim=1, descending=True, stable=True).indices
        place = torch.arange(state.patches, device=found.device).expand_as(falling)
        rank = torch.empty_like(falling).scatter(1, falling, place)
        dropped = acts & here & (rank >= count)
        weights = found * dropped
        pooled = state.pool(place, weights / (weights.sum(dim=1, keepdim=True) + EPS), dropped)
        if config.by_batch:
            return as_released(state, pooled, falling, int(count[0])) if bool(acts[0]) else state
        stays = torch.cat([here & ~dropped, acts], dim=1)
        wanted = torch.where(acts, rank, place) if last is None else place
        end = torch.full_like(count, 2 * state.patches) if last is None else 2 * last - 1
        wanted = torch.cat([2 * wanted, end], dim=1).masked_fill(~stays, 2 * state.patches + 1)
        order = torch.sort(wanted, dim=1, stable=True).indices
        return state.append(pooled).keep(order).hide(stays.gather(1, order)).packed()

    def losses(self, tokens: Tokens, dense: Tokens | None) -> Mapping[str, Tensor]:
        ours, theirs = tokens.notes.get(ALIGNED), tokens.notes.get(OF_TEXT)
        if ours is None or theirs is None:
            return {}
        return {"alignment": self.config.loss_weight * alignment_loss(ours, theirs)}


def as_released(state: TokenState, pooled: Pooled, falling: Tensor, count: int) -> TokenState:
    """`count` tokens of every input, padding among them, and the pooled one, which has the mask of the next token."""
    end = torch.full_like(falling[:, :1], state.patches)
    kept = state.append(pooled).keep(torch.cat([falling[:, :count], end], dim=1))
    if kept.mask is None:
        return kept
    next_one = state.patch_standing.gather(1, falling[:, count : count + 1])
    return replace(kept, mask=torch.cat([kept.mask[:, :-1], next_one], dim=1))


def importance(attention: Tensor, scores: Tensor, by_class: Tensor, counted: Tensor) -> Tensor:
    """(B, P) from attention (B, H, P, P) among the tokens, scores (B, P, T), the class's (B, P), and who is counted."""
    queries = counted.unsqueeze(-1)
    received = (attention.max(dim=1).values * queries).sum(dim=1)
    largest = scores.max(dim=2).values * counted
    shares = [each / (each.sum(dim=1, keepdim=True) + EPS) for each in (received, largest)]
    return (shares[0] + shares[1] + by_class) / 3


def alignment_loss(image: Tensor, text: Tensor) -> Tensor:
    """Mean of 1 - cosine between both sides' features (B, T, D) of each alignment token."""
    image, text = (each / (each.norm(dim=-1, keepdim=True) + 1e-10) for each in (image, text))
    one = torch.ones(1, device=image.device, dtype=image.dtype)
    return F.cosine_embedding_loss(image.flatten(0, 1), text.flatten(0, 1), one)
