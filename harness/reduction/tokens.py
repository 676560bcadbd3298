"""Tokens between blocks and what they stand for: keep, merge, pool and append, once for all methods.

Shapes: B images, N tokens (prefix tokens first), P = N - prefix patch-derived tokens, D channels, n0 patch tokens
at the input. Indices count patch-derived tokens from 0: prefix tokens (class, register, distillation) are protected
and never named by a method.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.kit.errors import HarnessError

PHASES = ("main", "scoring", "matching", "predictor")
_phase: ContextVar[str] = ContextVar("phase", default="main")


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Attribute the products computed inside to one of PHASES in the cost accounting."""
    if name not in PHASES:
        raise ValueError(f"phase {name!r}: expected one of {', '.join(PHASES)}")
    token = _phase.set(name)
    try:
        yield
    finally:
        _phase.reset(token)


def current_phase() -> str:
    """The phase that products computed now belong to."""
    return _phase.get()


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
    sizes: (B, N), how many patches each token stands for; None until the first merge (all ones).
    origin: (B, n0), the patch-derived token that each input patch now lives in, -1 once it is gone; None unless traced.
    sample_keys: (B,) int64, derived from the pixels alone, for methods that draw random numbers; None unless asked for.
    """

    tokens: Tensor
    prefix: int = 1
    sizes: Tensor | None = None
    origin: Tensor | None = None
    sample_keys: Tensor | None = None

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

    def traced(self) -> TokenState:
        """The same state with `origin` switched on: every patch lives in its own token."""
        batch = self.tokens.shape[0]
        return replace(self, origin=torch.arange(self.patches, device=self.tokens.device).repeat(batch, 1))

    def keep(self, index: Tensor) -> TokenState:
        """Keep the patch-derived tokens index (B, K), in that order, behind the prefix; all others go."""
        if index.shape[1] > self.patches:
            raise HarnessError(f"asked to keep {index.shape[1]} tokens where there are {self.patches}")
        tokens = torch.cat([self.tokens[:, : self.prefix], take(self.patch_tokens, index)], dim=1)
        sizes = None
        if self.sizes is not None:
            sizes = torch.cat([self.sizes[:, : self.prefix], self.patch_sizes.gather(1, index)], dim=1)
        origin = None
        if self.origin is not None:
            places = torch.full_like(self.origin[:, :1].expand(-1, self.patches), -1).contiguous()
            places.scatter_(1, index, torch.arange(index.shape[1], device=index.device).expand_as(index))
            origin = _moved(self.origin, places)
        return replace(self, tokens=tokens, sizes=sizes, origin=origin)

    def merge(self, source: Tensor, into: Tensor, rest: Tensor) -> TokenState:
        """Merge tokens source (B, R) into the tokens `into` (B, R): size-weighted means, sizes add.

        rest (B, P - R) names the tokens that remain, destinations among them, in the order they shall stand.
        """
        batch, patches, width = self.patch_tokens.shape
        weight = self.patch_sizes
        moved = weight.gather(1, source)
        wide = into.unsqueeze(-1).expand(-1, -1, width)
        weighted = self.patch_tokens * weight.unsqueeze(-1)
        total = weighted.scatter_add(1, wide, take(weighted, source))
        sizes = weight.scatter_add(1, into, moved)
        merged = replace(
            self,
            tokens=torch.cat([self.tokens[:, : self.prefix], total / sizes.unsqueeze(-1)], dim=1),
            sizes=torch.cat([sizes.new_ones(batch, self.prefix), sizes], dim=1),
            origin=None if self.origin is None else _moved(self.origin, _redirect(source, into, patches)),
        )
        return merged.keep(rest)

    def pool(self, index: Tensor, weights: Tensor | None = None) -> Pooled:
        """Sum the tokens index (B, R) with weights (B, R) into one token; without weights, their size-weighted mean."""
        sizes = self.patch_sizes.gather(1, index)
        if weights is None:
            weights = sizes / sizes.sum(1, keepdim=True)
        with phase("matching"):
            token = weights.unsqueeze(1) @ take(self.patch_tokens, index)
        members = None
        if self.origin is not None:
            inside = torch.zeros(index.shape[0], self.patches, dtype=torch.bool, device=index.device).scatter_(
                1, index, True
            )
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
        return replace(self, tokens=torch.cat([self.tokens, pooled.token], dim=1), sizes=sizes, origin=origin)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Gather rows: values (B, P, D), index (B, K) -> (B, K, D)."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _moved(origin: Tensor, places: Tensor) -> Tensor:
    """Compose patch -> token (B, n0) with token -> new token (B, P); -1 stays -1."""
    return torch.where(origin < 0, origin, places.gather(1, origin.clamp(min=0)))


def _redirect(source: Tensor, into: Tensor, patches: int) -> Tensor:
    places = torch.arange(patches, device=source.device).repeat(source.shape[0], 1)
    return places.scatter(1, source, into)


def split_top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices of the `count` highest scores (B, P), descending, and of the others: (B, K), (B, P - K).

    Ties go to the lower index, so that results do not depend on device or batch.
    """
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices
    return order[:, :count], order[:, count:]
