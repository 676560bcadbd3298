"""Momentum distillation: a slowly following twin of a model, and queues of its features (ALBEF, section 3.3)."""

from __future__ import annotations

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from harness.kit.errors import HarnessError

M = TypeVar("M", bound=nn.Module)


class Twin(nn.Module, Generic[M]):
    """A copy of a model without gradients, drawn towards it by `follow`."""

    model: M

    def __init__(self, model: M) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).requires_grad_(False)

    @torch.no_grad()
    def follow(self, student: M, momentum: float) -> None:
        """twin = momentum * twin + (1 - momentum) * student, parameter by parameter; frozen ones are what they were."""
        pairs = zip(self.model.parameters(), student.parameters(), strict=True)
        learnt = [(own.detach(), led.detach()) for own, led in pairs if led.requires_grad]
        if not learnt:  # all of the student stands still, as where a method alone is trained
            return
        twin: list[Tensor] = [own for own, _ in learnt]
        torch._foreach_mul_(twin, momentum)
        torch._foreach_add_(twin, [led for _, led in learnt], alpha=1.0 - momentum)

    def train(self, mode: bool = True) -> Twin[M]:
        """The twin never drops out: its features are targets."""
        return super().train(False)


def rising(base: float, done: float) -> float:
    """A momentum that rises from `base` to 1 along half a cosine, by the share of training that is done."""
    return 1 - (1 - base) * (1 + math.cos(math.pi * done)) / 2


class Queue(nn.Module):
    """The last `size` feature columns of width P, oldest overwritten first; starts with random unit columns."""

    columns: Tensor
    pointer: Tensor

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.register_buffer("columns", nn.functional.normalize(torch.randn(width, size), dim=0))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))

    def next_places(self, count: int) -> Tensor:
        """The columns (count,) that the next features overwrite."""
        return (self.pointer + torch.arange(count, device=self.pointer.device)) % self.columns.shape[1]

    @torch.no_grad()
    def enqueue(self, features_BP: Tensor) -> None:
        """Overwrite the oldest columns with the rows of a global batch; HarnessError where they outnumber the queue."""
        size, count = self.columns.shape[1], len(features_BP)
        if count > size:
            raise HarnessError(f"queue of {size} features: shorter than one global batch of {count}; lengthen it")
        self.columns.index_copy_(1, self.next_places(count), features_BP.T.to(self.columns.dtype))
        self.pointer.copy_((self.pointer + count) % size)
