"""The processes that work together: who one is, and what training exchanges (features, counts, means of all ranks).

In a single process everything is one's own. In training, rank order is batch order: rank r holds rows
[r * B, (r + 1) * B) of the global batch. What evaluation exchanges is in `harness.kit.parallel`.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from harness.kit.errors import HarnessError

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


def is_first() -> bool:
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
