"""Evaluation in many processes: shares of the samples, and results and errors that all processes have alike.

Every meeting of the processes begins with the same short message, in which each says whether it failed: an error in
one process, wherever it happens inside `agreed`, is raised in all of them, and none waits for one that is gone.
In a single process nothing is exchanged. Shapes: N samples, B samples of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from harness.kit.errors import HarnessError
from harness.kit.progress import Progress
from harness.kit.ranks import rank, world

T = TypeVar("T")
# Kinds of errors that stay what they are in the processes that learn of them.
_TOLD: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (HarnessError, MemoryError, torch.OutOfMemoryError, RuntimeError)
}
_KNOWN_TO_ALL = "_harness_known_to_all"


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices that cover range(count)."""
    return batches_of(slice(0, count), size)


def batches_of(span: slice, size: int) -> Iterator[slice]:
    """Slices that cover a span."""
    return (slice(start, min(start + size, span.stop)) for start in range(span.start, span.stop, size))


def share(count: int) -> slice:
    """This process's part of range(count): shares are contiguous, in rank order, and differ by one at most."""
    least, more = divmod(count, world())
    start = rank() * least + min(rank(), more)
    return slice(start, start + least + (rank() < more))


def over(count: int, batch_size: int, compute: Callable[[slice], Tensor], progress: Progress, unit: str) -> Tensor:
    """What `compute` makes of samples, (B, ...) a batch, for all of them: (count, ...), the same in every process.

    Each process computes its share. An error in one is raised in all.
    """
    own = share(count)

    def computed() -> Tensor | None:
        done = []
        with progress.bar(unit, own.stop - own.start) as bar:
            for part in batches_of(own, batch_size):
                done.append(compute(part))
                bar.advance(part.stop - part.start)
        return torch.cat(done) if done else None

    return whole(agreed(computed))


def whole(part_B: Tensor | None) -> Tensor:
    """Rows of all processes in rank order, (N, ...); None for a process that has no rows. Empty where none has any."""
    if world() == 1:
        return torch.empty(0) if part_B is None else part_B
    told = exchanged(None if part_B is None else (len(part_B), part_B.shape[1:], part_B.dtype, part_B.device.type))
    held = [about for about in told if about is not None]
    if not held:
        return torch.empty(0)
    _, shape, dtype, kind = held[0]
    size = (max(rows for rows, *_ in held), *shape)

    def buffers() -> tuple[Tensor, list[Tensor]]:
        padded = torch.zeros(size, dtype=dtype, device=kind)
        if part_B is not None:
            padded[: len(part_B)] = part_B
        own = padded.flatten().view(torch.uint8)  # as bytes: not every backend knows every dtype
        return own, [torch.empty_like(own) for _ in told]

    own, parts = agreed(buffers)
    dist.all_gather(parts, own)
    rows = [0 if about is None else about[0] for about in told]
    return torch.cat([part.view(dtype).view(size)[:count] for part, count in zip(parts, rows, strict=True)])


def agreed(action: Callable[[], T]) -> T:
    """The action's result, once it has succeeded in every process; the error of one that failed is raised in all.

    May be nested. The first failing process's error counts; elsewhere it has the same text, and is a HarnessError or
    an error of memory where it is one.
    """
    try:
        result = action()
    except Exception as error:
        if world() > 1 and not getattr(error, _KNOWN_TO_ALL, False):
            exchanged(None, error)
        raise
    exchanged(None)
    return result


def by_first(action: Callable[[], T]) -> T:
    """The action's result, found by the first process and given to all; its error is raised in all."""
    found: Any = agreed(lambda: action() if rank() == 0 else None)
    result: T = exchanged(found)[0]
    return result


@contextmanager
def first() -> Iterator[None]:
    """A block that the first process goes through before the others enter it, as for making files all then read."""
    if rank() > 0:
        exchanged(None)
        yield
        return
    try:
        yield
    except Exception as error:
        if world() > 1 and not getattr(error, _KNOWN_TO_ALL, False):
            exchanged(None, error)
        raise
    exchanged(None)


def exchanged(message: T, error: Exception | None = None) -> list[T]:
    """The messages of all processes in rank order; raises in all of them where one came with an error."""
    if world() == 1:
        return [message]
    told: list[Any] = [None] * world()
    dist.all_gather_object(told, (None if error is None else _told(error), message))
    faults = [(number, fault) for number, (fault, _) in enumerate(told) if fault is not None]
    if not faults:
        return [other for _, other in told]
    number, (kind, text) = faults[0]
    raised = error if number == rank() and error is not None else _TOLD[kind](text)
    setattr(raised, _KNOWN_TO_ALL, True)
    raise raised


def _told(error: Exception) -> tuple[str, str]:
    """An error's kind among _TOLD and its text."""
    for name in ("HarnessError", "MemoryError", "OutOfMemoryError"):
        if isinstance(error, _TOLD[name]):
            return name, str(error)
    return "RuntimeError", str(error) if isinstance(error, RuntimeError) and str(error) else repr(error)
