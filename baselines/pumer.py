"""PuMer: prune image tokens by the text's attention and merge both modalities, in the cross-modal encoder (ACL 2023).

Rests on the released program (csarron/PuMer, modules_meter.py, reducer.py; arXiv 2305.17530). In a layer the text runs
first, the image is reduced before its own layer and reads the text's new output; the image's class token is pruned and
merged like any other, so that its pooler reads the best-scored token. Sizes are forgotten after every layer.

By default padding takes no part: a text merges as many words as its own length says, and its result does not depend on
its batch. The program lets padding merge with words (masks get fractions) and adds an eps to every softmax that padding
shares: `padding_merges`.
"""

from dataclasses import replace
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
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
    Trace,
    attention_map,
    policy_map,
)

Share = Annotated[float, Field(ge=0, lt=1)]
SCORES, KEYS = "pumer_scores", "pumer_keys"


class PuMerConfig(MethodConfig):
    """layers: where it reduces (from 0; the program counts them 0, 2, 4, ...); the defaults are its VQA's.

    prune, merge: shares of the image tokens that enter a layer, counted before pruning; merge_text: of the text's.
    padding_merges: the program's arithmetic of padding. pruned_by_merging: the program's bug, that a layer with merge 0
    prunes nothing; off, since pruning alone is what such a setting asks for.
    """

    layers: tuple[int, ...] = (0, 1, 2, 3)
    prune: Share = 0.2
    merge: Share = 0.2
    merge_text: Share = 0.2
    padding_merges: bool = False
    pruned_by_merging: bool = False

    def bent(self, gamma: float) -> "PuMerConfig":
        shares = {name: 1 - (1 - getattr(self, name)) ** gamma for name in ("prune", "merge", "merge_text")}
        return self.model_copy(update=shares | ({} if gamma else {"padding_merges": False}))


class PuMer(TokenReducer[PuMerConfig]):
    """Between the text's cross-attention and its MLP: the image keeps what words attend to most, then both merge."""

    Config = PuMerConfig
    stacks = frozenset({"fusion"})

    def __init__(self, config: PuMerConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        fusion = shape.beside.get("fusion", shape)
        if fusion.streams < 2:
            raise HarnessError(f"pumer needs two streams that read each other, which {shape.name} has not: use METER")
        if not config.layers or min(config.layers) < 0:
            raise HarnessError(f"pumer layers {list(config.layers)}: expected numbers of layers from 0")
        self.layers = frozenset(config.layers) if config.prune > 0 else frozenset()
        self.depth = fusion.depth

    @property
    def text_first(self) -> bool:
        return bool(self.layers) or self.config.padding_merges

    def planned(self) -> Trace:
        trace, count = Trace(), self.shape.prefix + self.shape.patches
        for layer in range(self.depth):
            if layer in self.layers:
                kept, merged = self.counts(count)
                count = kept - merged
            trace.attention.append(count)
            trace.mlp.append(count)
        return trace

    def counts(self, tokens: int) -> tuple[int, int]:
        """Of an image's tokens, those that pruning keeps and those that are merged away after it."""
        merged = self.merged(tokens)
        if merged == 0 and self.config.pruned_by_merging:
            return tokens, 0
        kept = max(tokens - round(self.config.prune * tokens), 1)
        return kept, min(merged, (kept - 1) // 2)

    def merged(self, tokens: int) -> int:
        """How many of an image's tokens would merge, were there enough to merge with."""
        return round(self.config.merge * tokens)

    def evidence(self, block: int) -> frozenset[str]:
        return frozenset({"keys"}) if block in self.layers and self.config.merge_text > 0 else frozenset()

    def attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        if not self.config.padding_merges:
            return super().attention(block, q, k, v, state, stack)
        weights = policy_map(q, k, shares(state))
        return F.dropout(weights, stack.attention_dropout(block)) @ v, state

    def cross_attention(
        self, block: int, q: Tensor, k: Tensor, v: Tensor, state: TokenState, read: Tokens, stack: Stack
    ) -> tuple[Tensor, TokenState]:
        scored = block in self.layers and state.beside is not None
        if not scored and not self.config.padding_merges:
            return super().cross_attention(block, q, k, v, state, read, stack)
        if self.config.padding_merges:
            ones = read.states.new_ones(read.states.shape[:2])
            weights = policy_map(q, k, ones if read.mask is None else read.mask.to(ones.dtype))
        else:
            weights = attention_map(q, k, None if read.mask is None else read.mask[:, None, None, :])
        attended = F.dropout(weights, stack.attention_dropout(block)) @ v
        if not scored:
            return attended, state
        words = shares(state)
        rows = torch.ones_like(words) if self.config.padding_merges else words
        scores = (weights.mean(1) * rows.unsqueeze(-1)).sum(1) / words.sum(1, keepdim=True)
        return attended, state.noted(**{SCORES: scores, KEYS: k.mean(1)})

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        scores, keys, image = state.notes.get(SCORES), state.notes.get(KEYS), state.beside
        if scores is None or keys is None or image is None:
            return state
        state = replace(state, notes={}, beside=self.reduced_image(unprotected(image), scores, keys))
        if evidence.keys is None:
            return state
        return self.merged_text(state, evidence.keys)

    def reduced_image(self, image: TokenState, scores: Tensor, keys: Tensor) -> TokenState:
        """Scores (B, N) and keys (B, N, d) of all image tokens -> those left, by falling score, then merged."""
        kept, merged = self.counts(image.patches)
        if kept == image.patches and self.merged(image.patches) == 0:
            return image
        order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :kept]
        image = replace(image, mask=None).keep(order)
        metric = keys.gather(1, order.unsqueeze(-1).expand(-1, -1, keys.shape[-1]))
        return means(image, *bipartite(metric, merged, 0)) if merged else image

    def merged_text(self, state: TokenState, keys: Tensor) -> TokenState:
        share, length, most = self.config.merge_text, state.tokens.shape[1], (state.tokens.shape[1] - 1) // 2
        count = min(round(length * share), most)
        if count == 0:
            return state
        state = state.full_without_data()
        if state.mask is None or self.config.padding_merges:
            return with_fractions(state, *bipartite(keys, count, state.prefix))
        lengths = state.count()
        own = (lengths.double() * share).round().long().minimum((lengths - 1) // 2).unsqueeze(1)
        source, into, _ = bipartite(keys, count, state.prefix, state.patch_standing)
        merges = torch.arange(count, device=own.device) < own
        # A token beyond its text's own count is its own destination: the mean is the token itself.
        place = torch.arange(state.patches, device=own.device)
        sides = torch.cat([place[state.prefix % 2 :: 2], place[(state.prefix + 1) % 2 :: 2]])
        order = sides.expand(len(own), -1)
        reduced = means(state, source, torch.where(merges, into, source), order)
        gone = torch.zeros_like(state.patch_standing).scatter(1, source, merges)
        return reduced.hide(~gone.gather(1, order)).packed()


def shares(state: TokenState) -> Tensor:
    """(B, N), how much of each token is a word and not padding."""
    ones = state.tokens.new_ones(state.tokens.shape[:2])
    return ones if state.mask is None else state.mask.to(ones.dtype)


def unprotected(image: TokenState) -> TokenState:
    """The same image tokens, none of them protected."""
    origin = image.origin
    moved = None if origin is None else torch.where(origin < 0, origin, origin + image.prefix)
    return replace(image, prefix=0, origin=moved)


@torch.no_grad()
def bipartite(metric: Tensor, count: int, prefix: int, here: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """ToMe's matching of metric (B, N, d): sources and destinations (B, count), and the rest, counted behind a prefix.

    Even positions of the sequence merge into odd ones; position 0 stays. here: (B, P), tokens that may take part.
    """
    metric = F.normalize(metric, dim=-1)[:, prefix:]
    position = torch.arange(metric.shape[1], device=metric.device)
    even, odd = position[prefix % 2 :: 2], position[(prefix + 1) % 2 :: 2]
    similarity = metric[:, even] @ metric[:, odd].transpose(1, 2)
    if here is not None:
        similarity = similarity.masked_fill(~(here[:, even].unsqueeze(2) & here[:, odd].unsqueeze(1)), -torch.inf)
    best, match = similarity.max(dim=-1)
    if prefix == 0:
        best = best.masked_fill(even == 0, -torch.inf)
    order = torch.sort(best, dim=1, descending=True, stable=True).indices
    source, others = order[:, :count], order[:, count:].sort(dim=1).values
    return even[source], odd[match.gather(1, source)], torch.cat([even[others], odd.expand(len(order), -1)], dim=1)


def means(state: TokenState, source: Tensor, into: Tensor, rest: Tensor) -> TokenState:
    """Merge sources into destinations as plain means of what merges now; sizes are not kept."""
    return replace(replace(state, sizes=None).merge(source, into, rest), sizes=None)


def with_fractions(state: TokenState, source: Tensor, into: Tensor, rest: Tensor) -> TokenState:
    """The same, with the mask averaged as the tokens are: a word merged with padding is half there."""
    reduced = means(state, source, into, rest)
    if state.mask is None:
        return reduced
    own = shares(state)[:, state.prefix :]
    total = own.scatter_add(1, into, own.gather(1, source))
    size = torch.ones_like(own).scatter_add(1, into, torch.ones_like(source, dtype=own.dtype))
    mask = (total / size).gather(1, rest)
    return replace(reduced, mask=torch.cat([shares(state)[:, : state.prefix], mask], dim=1))
