"""Tokens between blocks and what they stand for: keep, merge, pool, append and hide, once for all methods.

Shapes: B inputs (images, texts), N tokens (prefix tokens first), P = N - prefix tokens that a method may reduce
(derived from patches, in a text from words), D channels, n0 of them at the input. Indices count those from 0: prefix
tokens (class, register, distillation) are protected and never named by a method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from harness.kit.errors import HarnessError
from harness.reduction.indexing import add_to, moved, redirected, take
from harness.reduction.phases import phase
from harness.reduction.tokens import Tokens


@dataclass(frozen=True)
class Pooled:
    """One token (B, 1, D) made of several, with its size (B, 1) and the input patches it holds (B, n0), or None."""

    token: Tensor
    size: Tensor | None
    members: Tensor | None


@dataclass(frozen=True)
class TokenState:
    """Tokens between blocks, and what they stand for. Immutable: each operation returns a new state.

    tokens: (B, N, D). prefix: protected tokens at the front.
    sizes: (B, N), how many inputs each token stands for; None until the first merge (all ones).
    mask: (B, N), true where a token stands; None where all do. In training it may be of zeros and ones with a gradient:
    then nothing is removed, and the method's own attention says what a hidden token means. Where it has fractions, what
    is above .5 stands.
    origin: (B, n0), the token behind the prefix that each input now lives in, -1 once it is gone; None unless traced.
    positions: (B, N), where a token stands among the stack's inputs, -1 for one that has no place (pooled); None
    unless the stack gave them (rotary embeddings, decoders). A merged token keeps its destination's.
    sample_keys: (B,) int64, derived from the inputs alone, for methods that draw random numbers; None unless asked for.
    notes: what the method noted (scores, masks), for its own losses. beside: a stream that runs beside this one.
    """

    tokens: Tensor
    prefix: int = 1
    sizes: Tensor | None = None
    origin: Tensor | None = None
    sample_keys: Tensor | None = None
    mask: Tensor | None = None
    positions: Tensor | None = None
    notes: Mapping[str, Tensor] = field(default_factory=dict)
    beside: TokenState | None = None

    @property
    def patches(self) -> int:
        """P, the number of patch-derived tokens now (merged tokens included)."""
        return self.tokens.shape[1] - self.prefix

    @property
    def patch_tokens(self) -> Tensor:
        """(B, P, D), the patch-derived tokens."""
        return self.tokens[:, self.prefix :]

    @property
    def patch_sizes(self) -> Tensor:
        """(B, P), sizes of the patch-derived tokens, ones where nothing was merged."""
        if self.sizes is None:
            return self.tokens.new_ones(self.tokens.shape[0], self.patches)
        return self.sizes[:, self.prefix :]

    @property
    def standing(self) -> Tensor | None:
        """(B, N) bool, where a token stands; None where all do."""
        if self.mask is None or self.mask.dtype == torch.bool:
            return self.mask
        return self.mask.detach() > 0.5

    @property
    def policy(self) -> Tensor:
        """(B, N), the mask as numbers, with its gradient where it has one; ones where all tokens stand."""
        if self.mask is None:
            return self.tokens.new_ones(self.tokens.shape[:2])
        return self.mask.to(self.tokens.dtype)

    @property
    def log_sizes(self) -> Tensor | None:
        """(B, 1, 1, N), what makes each token count, as a key, as often as it has inputs; None where one each."""
        return None if self.sizes is None else self.sizes.log().to(self.tokens.dtype)[:, None, None, :]

    @property
    def patch_standing(self) -> Tensor:
        """(B, P) bool, which of the patch-derived tokens stand."""
        standing = self.standing
        if standing is None:
            return torch.ones(len(self.tokens), self.patches, dtype=torch.bool, device=self.tokens.device)
        return standing[:, self.prefix :]

    def count(self) -> Tensor:
        """(B,), how many tokens stand, prefix included."""
        standing = self.standing
        if standing is None:
            return torch.full((len(self.tokens),), self.tokens.shape[1], device=self.tokens.device)
        return standing.sum(dim=1)

    def bias(self, proportional: bool = False) -> Tensor | None:
        """What is added to the logits of this state's keys, (B, 1, 1, N): a mask where not all tokens stand, and log
        sizes if `proportional` (ToMe); None where that is nothing.
        """
        standing = None if self.standing is None else self.standing[:, None, None, :]
        logs = self.log_sizes if proportional else None
        if logs is None or standing is None:
            return standing if logs is None else logs
        return logs.masked_fill(~standing, -float("inf"))

    def left(self, states: Tensor) -> Tokens:
        """What leaves the stack: these tokens with their final states (B, N, D)."""
        beside = None if self.beside is None else self.beside.left(self.beside.tokens)
        return Tokens(states, self.standing, self.sizes, self.origin, self.prefix, self.notes, beside)

    def with_patch_tokens(self, patch_tokens: Tensor) -> TokenState:
        """The same state with other tokens (B, P, D) behind the prefix."""
        return replace(self, tokens=torch.cat([self.tokens[:, : self.prefix], patch_tokens], dim=1))

    def with_patch_sizes(self, sizes: Tensor) -> TokenState:
        """The same state with other sizes (B, P) behind the prefix."""
        return replace(self, sizes=torch.cat([sizes.new_ones(len(sizes), self.prefix), sizes], dim=1))

    def relocated(self, places: Tensor) -> TokenState:
        """The same state where what lived in token p behind the prefix lives in places[p] (B, P) now."""
        return self if self.origin is None else replace(self, origin=moved(self.origin, places))

    def noted(self, **notes: Tensor) -> TokenState:
        """The same state with something noted for the method's losses."""
        return replace(self, notes={**self.notes, **notes})

    def hide(self, mask: Tensor) -> TokenState:
        """Hide the tokens behind the prefix where mask (B, P) is false or 0; they stay where they are.

        A mask of numbers keeps its gradient (straight through); one hidden before stays hidden.
        """
        before = self.mask[:, self.prefix :] if self.mask is not None else None
        if before is not None:
            mask = mask & before if mask.dtype == before.dtype == torch.bool else mask * before
        return self.with_mask(mask)

    def with_mask(self, mask: Tensor) -> TokenState:
        """The same state with another mask (B, P) behind the prefix, whatever it was before."""
        kept = mask.new_ones(mask.shape[0], self.prefix)
        return replace(self, mask=torch.cat([kept, mask], dim=1))

    def full_without_data(self) -> TokenState:
        """The same state, or one without a mask where tensors hold no data, as those that costs are counted with do:
        they stand for inputs of the longest length, which have no padding.
        """
        without = self.mask is not None and (self.mask.is_meta or isinstance(self.mask, FakeTensor))
        return replace(self, mask=None) if without else self

    def packed(self) -> TokenState:
        """Remove the tokens that are hidden: the others keep their order, rows are padded to the longest.

        Padding is masked, and the mask goes where no row has any. Counts differ from input to input, so this is for
        methods that are adaptive; it looks at the data.
        """
        standing = self.standing
        if standing is None:
            return self
        here = standing[:, self.prefix :]
        longest = max(1, int(here.sum(dim=1).max()))
        order = torch.sort((~here).to(torch.int8), dim=1, stable=True).indices[:, :longest]
        return self.keep_where(order, here.gather(1, order))

    def keep_where(self, index: Tensor, stays: Tensor) -> TokenState:
        """Keep the tokens index (B, K) behind the prefix, of which those where `stays` (B, K) is false are padding."""
        state = replace(self, mask=None).keep(index)
        if state.origin is not None and stays.shape[1]:  # where no token is kept, none is anywhere
            padding = ~stays.gather(1, state.origin.clamp(min=0))
            state = replace(state, origin=state.origin.masked_fill(padding, -1))
        return state if bool(stays.all()) else state.hide(stays)

    def where(self, rows: Tensor, other: TokenState) -> TokenState:
        """The state of each input from this one where rows (B,) is true, else from `other`, which has as many tokens.

        For methods that reduce an image in one of two ways; masks, positions and notes are this one's.
        """
        if other.tokens.shape != self.tokens.shape:
            raise HarnessError(f"one way leaves {self.patches} tokens, the other {other.patches}: they must be as many")
        sizes, origin = self.sizes, self.origin
        if sizes is not None or other.sizes is not None:
            ones = self.tokens.new_ones(self.tokens.shape[:2])
            here, there = (ones if each is None else each for each in (sizes, other.sizes))
            sizes = torch.where(rows[:, None], here, there)
        if origin is not None and other.origin is not None:
            origin = torch.where(rows[:, None], origin, other.origin)
        tokens = torch.where(rows[:, None, None], self.tokens, other.tokens)
        return replace(self, tokens=tokens, sizes=sizes, origin=origin)

    def traced(self) -> TokenState:
        """The same state with `origin` switched on, where it is not yet: every input lives in its own token."""
        if self.origin is not None:
            return self
        batch = self.tokens.shape[0]
        return replace(self, origin=torch.arange(self.patches, device=self.tokens.device).repeat(batch, 1))

    def keep(self, index: Tensor) -> TokenState:
        """Keep the patch-derived tokens index (B, K), in that order, behind the prefix; all others go."""
        if index.shape[1] > self.patches:
            raise HarnessError(f"asked to keep {index.shape[1]} tokens where there are {self.patches}")
        tokens = torch.cat([self.tokens[:, : self.prefix], take(self.patch_tokens, index)], dim=1)
        sizes, mask, positions = (self._kept(part, index) for part in (self.sizes, self.mask, self.positions))
        origin = None
        if self.origin is not None:
            places = torch.full_like(self.origin[:, :1].expand(-1, self.patches), -1).contiguous()
            places.scatter_(1, index, torch.arange(index.shape[1], device=index.device).expand_as(index))
            origin = moved(self.origin, places)
        return replace(self, tokens=tokens, sizes=sizes, mask=mask, positions=positions, origin=origin)

    def _kept(self, part: Tensor | None, index: Tensor) -> Tensor | None:
        """A part (B, N) of the state, of the tokens index (B, K) behind the prefix."""
        if part is None:
            return None
        return torch.cat([part[:, : self.prefix], part[:, self.prefix :].gather(1, index)], dim=1)

    def merge(self, source: Tensor, into: Tensor, rest: Tensor, weights: Tensor | None = None) -> TokenState:
        """Merge tokens source (B, R) into the tokens `into` (B, R): means weighted by size, or by `weights` (B, P).

        Sizes add. rest (B, P - R) names the tokens that remain, destinations among them, in the order they shall stand.
        """
        batch, patches = self.patch_tokens.shape[:2]
        sizes = add_to(self.patch_sizes, source, into)
        weight = self.patch_sizes if weights is None else weights
        weighted = self.patch_tokens * weight.unsqueeze(-1)
        mean = add_to(weighted, source, into) / (sizes if weights is None else add_to(weights, source, into)).unsqueeze(
            -1
        )
        merged = replace(
            self,
            tokens=torch.cat([self.tokens[:, : self.prefix], mean], dim=1),
            sizes=torch.cat([sizes.new_ones(batch, self.prefix), sizes], dim=1),
            origin=None if self.origin is None else moved(self.origin, redirected(source, into, patches)),
        )
        return merged.keep(rest)

    def group(self, into: Tensor, count: int, weights: Tensor | None = None, eps: float = 0.0) -> TokenState:
        """Merge all tokens into `count` groups: `into` (B, P) says whose member each is. Sizes add.

        A group's token is sum(w x) / (sum(w) + eps), with weights (B, P) or, left out, the sizes.
        """
        sizes = self.patch_sizes
        weights = sizes if weights is None else weights.to(self.tokens.dtype)
        zeros = self.tokens.new_zeros(len(into), count)
        weighted = self.patch_tokens * weights.unsqueeze(-1)
        wide = into.unsqueeze(-1).expand_as(weighted)
        total = weighted.new_zeros(*zeros.shape, weighted.shape[-1]).scatter_add(1, wide, weighted)
        means = total / (zeros.to(weights.dtype).scatter_add(1, into, weights) + eps).unsqueeze(-1)
        added = zeros.to(sizes.dtype).scatter_add(1, into, sizes)
        return replace(self.regroup(means, into), sizes=torch.cat([self._prefix_sizes(), added], dim=1))

    def _prefix_sizes(self) -> Tensor:
        if self.sizes is None:
            return self.tokens.new_ones(len(self.tokens), self.prefix)
        return self.sizes[:, : self.prefix]

    def regroup(self, tokens: Tensor, into: Tensor) -> TokenState:
        """Put tokens (B, K, D), which all stand and count one each, in place of those behind the prefix.

        into: (B, P), the new token in which each of those lives from now on, -1 where it is gone.
        """
        batch, count = tokens.shape[:2]
        positions = self.positions
        if positions is not None:
            nowhere = positions.new_full((batch, count), -1)
            positions = torch.cat([positions[:, : self.prefix], nowhere], dim=1)
        origin = None if self.origin is None else moved(self.origin, into)
        put = torch.cat([self.tokens[:, : self.prefix], tokens.to(self.tokens.dtype)], dim=1)
        return replace(self, tokens=put, sizes=None, mask=None, positions=positions, origin=origin)

    def pool(self, index: Tensor, weights: Tensor | None = None, chosen: Tensor | None = None) -> Pooled:
        """Sum the tokens index (B, R) with weights (B, R) into one token; without weights, their size-weighted mean.

        chosen: (B, R), which of them count, where images pool different numbers of tokens; all of them if left out.
        """
        if chosen is None:
            chosen = torch.ones_like(index, dtype=torch.bool)
        sizes = self.patch_sizes.gather(1, index) * chosen
        weights = sizes / sizes.sum(1, keepdim=True) if weights is None else weights * chosen
        with phase("matching"):
            token = weights.unsqueeze(1) @ take(self.patch_tokens, index)
        members = None
        if self.origin is not None:
            inside = torch.zeros(index.shape[0], self.patches, dtype=torch.bool, device=index.device)
            inside = inside.scatter(1, index, chosen)
            members = (self.origin >= 0) & inside.gather(1, self.origin.clamp(min=0))
        return Pooled(token, sizes.sum(1, keepdim=True) if self.sizes is not None else None, members)

    def append(self, pooled: Pooled) -> TokenState:
        """Add a pooled token as the last one; from then on it is an ordinary patch-derived token."""
        sizes = self.sizes
        if sizes is not None and pooled.size is not None:
            sizes = torch.cat([sizes, pooled.size], dim=1)
        origin = self.origin
        if origin is not None and pooled.members is not None:
            origin = origin.masked_fill(pooled.members, self.patches)
        mask, positions = self.mask, self.positions
        if mask is not None:
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        if positions is not None:
            positions = torch.cat([positions, positions.new_full((len(positions), 1), -1)], dim=1)
        tokens = torch.cat([self.tokens, pooled.token], dim=1)
        return replace(self, tokens=tokens, sizes=sizes, origin=origin, mask=mask, positions=positions)
