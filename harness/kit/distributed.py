"""Several processes that train or evaluate together: who is who, tensors gathered, shares of samples, errors shared.

`run_together` begins with the same short message, in which each process says whether it failed: an error in one is
raised in all of them, and none waits for one that is gone. In a single process nothing is exchanged. In training rank
order is batch order: rank r holds rows [r * B, (r + 1) * B) of the global batch. Shapes: N samples of all processes, B
of this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from harness.kit.errors import HarnessError
from harness.kit.progress import Progress

# A process waits for the others where they meet, however long their shares or the making of data take.
LONGEST_WAIT = timedelta(days=2)


def start_processes(device: torch.device) -> None:
    """Join the other processes where torchrun or `accelerate launch` started several; nothing to do for one.

    They meet over gloo on a CPU. On CUDA each takes the device of its LOCAL_RANK and tensors go over NCCL, messages
    over gloo, which needs no memory of a device that may be full. Raises HarnessError for more processes than devices
    and for a device named with its number.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1 or dist.is_initialized():
        return
    if device.type != "cuda":
        dist.init_process_group("gloo", timeout=LONGEST_WAIT)
        return
    if device.index is not None:
        raise HarnessError(f"device {device}: {count} processes would share it; give --device cuda, each takes its own")
    local, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= devices:
        raise HarnessError(f"process {local} has no CUDA device, there are {devices}; start one process per device")
    torch.cuda.set_device(local)
    dist.init_process_group("cpu:gloo,cuda:nccl", timeout=LONGEST_WAIT)


def end_processes() -> None:
    """Leave the group of processes, where there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if _many() else 0


def world() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _many() else 1


def is_main_process() -> bool:
    """Whether this is the process that writes files and talks."""
    return rank() == 0


def gather(tensor_B: Tensor) -> Tensor:
    """Rows of all ranks, (world * B, …), without gradient."""
    if not _many():
        return tensor_B.detach()
    parts = [torch.empty_like(tensor_B) for _ in range(world())]
    dist.all_gather(parts, tensor_B.detach().contiguous())
    return torch.cat(parts)


def gather_with_gradient(tensor_B: Tensor) -> Tensor:
    """Rows of all ranks, (world * B, …); gradients flow back to the rank that made a row."""
    if not _many():
        return tensor_B
    rows: Tensor = _Gather.apply(tensor_B)
    return rows


def own_rows(count: int, device: torch.device) -> Tensor:
    """Where this rank's `count` rows stand in the global batch, (count,)."""
    return torch.arange(count, device=device) + rank() * count


def global_mean(total: Tensor, count: Tensor) -> Tensor:
    """This rank's share of sum / count over all ranks, scaled so that the mean over ranks is that quotient.

    Data-parallel training averages gradients over ranks: a plain local mean would weigh ranks with few tokens too much.
    """
    counted = count.detach().to(total.dtype)
    if _many():
        counted = counted.clone()
        dist.all_reduce(counted)
    return total * world() / counted.clamp(min=1)


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of a detached tensor over all ranks, for logs."""
    if not _many():
        return tensor
    summed = tensor.detach().clone()
    dist.all_reduce(summed)
    return summed / world()


def pad_to_widest(tensor_BL: Tensor, value: float | int) -> Tensor:
    """(B, L, …) padded along L to the widest of all ranks, so that rows can be gathered."""
    if not _many():
        return tensor_BL
    width = torch.tensor(tensor_BL.shape[1], device=tensor_BL.device)
    dist.all_reduce(width, op=dist.ReduceOp.MAX)
    missing = int(width) - tensor_BL.shape[1]
    filler = tensor_BL.new_full((tensor_BL.shape[0], missing, *tensor_BL.shape[2:]), value)
    return torch.cat([tensor_BL, filler], dim=1)


class _Gather(torch.autograd.Function):
    """All ranks' rows; backward sums what every rank asks of one's own."""

    @staticmethod
    def forward(ctx: Any, tensor_B: Tensor) -> Tensor:
        return gather(tensor_B)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        wanted = gradients[0].contiguous().clone()
        dist.all_reduce(wanted)
        return wanted.chunk(world())[rank()]


def _many() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


T = TypeVar("T")
# Kinds of errors that stay what they are in the processes that learn of them.
_SHARED_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (HarnessError, MemoryError, torch.OutOfMemoryError, RuntimeError)
}
_KNOWN_TO_ALL = "_harness_known_to_all"


def batches(count: int, size: int) -> Iterator[slice]:
    """Slices that cover range(count)."""
    return batches_of(slice(0, count), size)


def batches_of(span: slice, size: int) -> Iterator[slice]:
    """Slices that cover a span."""
    return (slice(start, min(start + size, span.stop)) for start in range(span.start, span.stop, size))


def own_share(count: int) -> slice:
    """This process's part of range(count): shares are contiguous, in rank order, and differ by one at most."""
    least, more = divmod(count, world())
    start = rank() * least + min(rank(), more)
    return slice(start, start + least + (rank() < more))


def map_shared(
    count: int, batch_size: int, compute: Callable[[slice], Tensor], progress: Progress, unit: str
) -> Tensor:
    """What `compute` makes of samples, (B, ...) a batch, for all of them: (count, ...), the same in every process.

    Each process computes its share. An error in one is raised in all.
    """
    own = own_share(count)

    def computed() -> Tensor | None:
        done = []
        with progress.bar(unit, own.stop - own.start) as bar:
            for part in batches_of(own, batch_size):
                done.append(compute(part))
                bar.advance(part.stop - part.start)
        return torch.cat(done) if done else None

    return gather_rows(run_together(computed))


def gather_rows(part_B: Tensor | None) -> Tensor:
    """Rows of all processes in rank order, (N, ...); None for a process that has no rows. Empty where none has any."""
    if world() == 1:
        return torch.empty(0) if part_B is None else part_B
    found = gather_objects(
        None if part_B is None else (len(part_B), part_B.shape[1:], part_B.dtype, part_B.device.type)
    )
    held = [about for about in found if about is not None]
    if not held:
        return torch.empty(0)
    _, shape, dtype, kind = held[0]
    size = (max(rows for rows, *_ in held), *shape)

    def buffers() -> tuple[Tensor, list[Tensor]]:
        padded = torch.zeros(size, dtype=dtype, device=kind)
        if part_B is not None:
            padded[: len(part_B)] = part_B
        own = padded.flatten().view(torch.uint8)  # as bytes: not every backend knows every dtype
        return own, [torch.empty_like(own) for _ in found]

    own, parts = run_together(buffers)
    dist.all_gather(parts, own)
    rows = [0 if about is None else about[0] for about in found]
    return torch.cat([part.view(dtype).view(size)[:count] for part, count in zip(parts, rows, strict=True)])


def run_together(action: Callable[[], T]) -> T:
    """The action's result, once it has succeeded in every process; the error of one that failed is raised in all.

    May be nested. The first failing process's error counts; elsewhere it has the same text, and is a HarnessError or
    an error of memory where it is one.
    """
    try:
        result = action()
    except Exception as error:
        if world() > 1 and not getattr(error, _KNOWN_TO_ALL, False):
            gather_objects(None, error)
        raise
    gather_objects(None)
    return result


def on_main_process(action: Callable[[], T]) -> T:
    """The action's result, found by the first process and given to all; its error is raised in all."""
    found: Any = run_together(lambda: action() if rank() == 0 else None)
    result: T = gather_objects(found)[0]
    return result


@contextmanager
def main_process_first() -> Iterator[None]:
    """A block that the first process goes through before the others enter it, as for making files all then read."""
    if rank() > 0:
        gather_objects(None)
        yield
        return
    try:
        yield
    except Exception as error:
        if world() > 1 and not getattr(error, _KNOWN_TO_ALL, False):
            gather_objects(None, error)
        raise
    gather_objects(None)


def gather_objects(message: T, error: Exception | None = None) -> list[T]:
    """The messages of all processes in rank order; raises in all of them where one came with an error."""
    if world() == 1:
        return [message]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, (None if error is None else _described(error), message))
    faults = [(number, fault) for number, (fault, _) in enumerate(found) if fault is not None]
    if not faults:
        return [other for _, other in found]
    number, (kind, text) = faults[0]
    raised = error if number == rank() and error is not None else _SHARED_ERRORS[kind](text)
    setattr(raised, _KNOWN_TO_ALL, True)
    raise raised


def _described(error: Exception) -> tuple[str, str]:
    """An error's kind among _SHARED_ERRORS and its text."""
    for name in ("HarnessError", "MemoryError", "OutOfMemoryError"):
        if isinstance(error, _SHARED_ERRORS[name]):
            return name, str(error)
    return "RuntimeError", str(error) if isinstance(error, RuntimeError) and str(error) else repr(error)
