"""Tokens as they leave a stack, and several batches of them joined.

Shapes: B inputs (images, texts), N tokens (prefix tokens first), D channels, n0 inputs that tokens stand for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from harness.reduction.indexing import take


@dataclass(frozen=True)
class Tokens:
    """What leaves a stack: states (B, N, D), and what they stand for.

    mask: (B, N), true where a token stands, or None where all do. sizes: (B, N), inputs that each stands for, or None
    (one each). origin: (B, n0), the token behind the prefix in which each input lives, -1 where it is gone, or None.
    prefix: protected tokens at the front. notes: what the method noted on the way, for its own losses. beside: what
    left a stream that ran beside this one.
    """

    states: Tensor
    mask: Tensor | None = None
    sizes: Tensor | None = None
    origin: Tensor | None = None
    prefix: int = 1
    notes: Mapping[str, Tensor] = field(default_factory=dict)
    beside: Tokens | None = None

    def __len__(self) -> int:
        return len(self.states)

    @property
    def standing(self) -> Tensor:
        """(B, N) bool, where a token stands."""
        if self.mask is None:
            return torch.ones(self.states.shape[:2], dtype=torch.bool, device=self.states.device)
        return self.mask

    def rows(self, index: Tensor) -> Tokens:
        """Those of some inputs (K,), in that order; notes are left out."""

        def of(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[index]

        return Tokens(self.states[index], of(self.mask), of(self.sizes), of(self.origin), self.prefix)

    def first(self, count: int) -> Tokens:
        """Those of the first `count` inputs."""
        return self.rows(torch.arange(min(count, len(self)), device=self.states.device))

    def cut(self, length: int) -> Tokens:
        """The first `length` tokens, of texts whose padding stands at the end; all where tokens were reduced."""
        if self.origin is not None or self.sizes is not None:
            return self
        mask = None if self.mask is None else self.mask[:, :length]
        return replace(self, states=self.states[:, :length], mask=mask)

    def repeated(self, times: int) -> Tokens:
        """Each input's tokens `times` times, one after the other."""
        rows = torch.arange(len(self), device=self.states.device).repeat_interleave(times)
        return self.rows(rows)

    def with_states(self, states: Tensor) -> Tokens:
        """The same tokens with other states (B, N, D')."""
        return replace(self, states=states)

    def at_inputs(self) -> Tensor:
        """(B, prefix + n0, D): for each input position the state that it lives in; zeros where it is gone."""
        if self.origin is None:
            return self.states
        behind = self.states[:, self.prefix :]
        spread = take(behind, self.origin.clamp(min=0)).masked_fill((self.origin < 0).unsqueeze(-1), 0)
        return torch.cat([self.states[:, : self.prefix], spread], dim=1)

    def log_sizes(self, skip: int = 0) -> Tensor:
        """(B, N - skip): what makes each of these tokens count, as a key, as many times as inputs it stands for."""
        states = self.states[:, skip:]
        logs = states.new_zeros(states.shape[:2]) if self.sizes is None else self.sizes[:, skip:].log().to(states.dtype)
        return logs if self.mask is None else logs.masked_fill(~self.mask[:, skip:], -float("inf"))

    def mean(self, skip: int = 0) -> Tensor:
        """(B, D): mean over the tokens from place `skip` on, each by its size; those that do not stand never count."""
        states = self.states[:, skip:]
        if self.mask is None and self.sizes is None:
            return states.mean(dim=1)
        weights = states.new_ones(states.shape[:2]) if self.sizes is None else self.sizes[:, skip:].to(states.dtype)
        if self.mask is not None:
            weights = weights * self.mask[:, skip:]
        return (states * weights.unsqueeze(-1)).sum(dim=1) / weights.sum(dim=1, keepdim=True)


def join(parts: Sequence[Tokens]) -> Tokens:
    """Tokens of several batches one after the other, padded to the widest; padding does not stand."""
    wide = max(part.states.shape[1] for part in parts)

    def padded(values: Tensor) -> Tensor:
        missing = wide - values.shape[1]
        return functional.pad(values, (*(0, 0) * (values.dim() - 2), 0, missing)) if missing else values

    masked = any(part.mask is not None or part.states.shape[1] < wide for part in parts)
    sized = any(part.sizes is not None for part in parts)
    ones = [part.states.new_ones(part.states.shape[:2]) if part.sizes is None else part.sizes for part in parts]
    origins = [part.origin for part in parts if part.origin is not None]
    return Tokens(
        torch.cat([padded(part.states) for part in parts]),
        torch.cat([padded(part.standing) for part in parts]) if masked else None,
        torch.cat([padded(sizes) for sizes in ones]) if sized else None,
        torch.cat(origins) if len(origins) == len(parts) else None,
        parts[0].prefix,
    )
