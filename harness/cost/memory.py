"""Training memory of a reduced tower: the bytes that the forward pass saves for backward, tensor by tensor.

No GPU is needed: under FakeTensorMode tensors have shapes and storages but no data. Each storage counts once
and whole, since a saved view keeps all of it; parameters and buffers count in the fixed part instead.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import floor
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

from harness.cost.flops import MacCounter, scalar
from harness.cost.probe import mode_of, runs_fast, skeleton, tower_call, tower_inputs
from harness.kit.errors import HarnessError
from harness.reduction import TokenReducer
from harness.reduction.kernels import attention_path
from harness.reduction.plan import Sample

MIB = 2**20
BATCHES = (4, 8)
# Parameter, gradient and AdamW's two moments.
TRAINED_COPIES = 4
# A gap between the allocator's peak and the saved bytes above this share is explained in the record.
EXPLAINED_GAP = 0.10


@dataclass(frozen=True)
class StepBytes:
    """Bytes allocated on a GPU in one training step.

    held: when the forward pass has ended, all that backward needs still there. forward_peak: the most up to then.
    peak: the most in the whole step.
    """

    held: int
    forward_peak: int
    peak: int


@dataclass(frozen=True)
class PeakGrowth:
    """How the allocator's peak grows per image, in MiB: what is held after the forward pass, and what comes on top.

    temporary_mib: buffers that a pass makes and frees, and gradients, less what backward has freed by the peak.
    peak_in: the pass that reaches the larger batch's peak, forward or backward.
    """

    held_mib: float
    temporary_mib: float
    peak_in: str

    @property
    def peak_mib(self) -> float:
        """The slope of torch.cuda.max_memory_allocated."""
        return self.held_mib + self.temporary_mib


@dataclass(frozen=True)
class MemoryFit:
    """Training memory as a line over the batch size: fixed + batch_free + batch * per image, in MiB.

    mib_fixed: parameters, gradients and AdamW states. mib_batch_free: what is saved whatever the batch.
    growth: on a GPU, what the allocator's peak grew by.
    """

    mib_per_image: float
    mib_batch_free: float
    mib_fixed: float
    attention: str
    source: str
    growth: PeakGrowth | None = None

    @property
    def gap(self) -> float | None:
        """How much more the allocator's peak grows per image than the saved bytes do, as a fraction."""
        return None if self.growth is None else self.growth.peak_mib / self.mib_per_image - 1


def estimate_memory(
    model: nn.Module, reducer: TokenReducer[Any], attention: str = "fused", dtype: torch.dtype = torch.float32
) -> MemoryFit:
    """Training memory without running anything large, for attention `fused` or `math`.

    A method that looks at values is run on zeros instead, and so is a small tower, of which that takes a tenth of the
    time; an adaptive method needs images (`measure_memory`). Raises HarnessError when the attention path named is not
    the one that torch takes.
    """
    if runs_fast(model):
        return measure_memory(
            skeleton(model, "cpu", dtype), skeleton(reducer, "cpu", dtype), attention, source="estimated"
        )
    from torch._subclasses.fake_tensor import FakeTensorMode  # it takes a second to import

    try:
        with FakeTensorMode():
            saved = [
                _saved(skeleton(model, "cpu", dtype), skeleton(reducer, "cpu", dtype), batch, attention)
                for batch in BATCHES
            ]
    except HarnessError:
        raise
    except RuntimeError:
        return measure_memory(
            skeleton(model, "cpu", dtype), skeleton(reducer, "cpu", dtype), attention, source="estimated"
        )
    return _fit(saved, model, reducer, attention, "estimated", dtype=dtype)


def measure_memory(
    model: nn.Module,
    reducer: TokenReducer[Any],
    attention: str = "fused",
    source: str = "measured",
    sample: Sample | None = None,
) -> MemoryFit:
    """The same accounting on the model's own tensors; on a GPU also the slope of the allocator's peak.

    `sample`: the images on which adaptive methods run.
    Raises HarnessError as `estimate_memory`. On a GPU the parameters' gradients are used and set to None.
    """
    saved = [_saved(model, reducer, batch, attention, sample) for batch in BATCHES]
    growth = None
    if _device(model).type == "cuda":
        growth = peak_growth([_cuda_step(model, reducer, batch, attention, sample) for batch in BATCHES])
    return _fit(saved, model, reducer, attention, source, growth)


def peak_growth(steps: Sequence[StepBytes]) -> PeakGrowth:
    """The growth per image between training steps of the two BATCHES."""
    small, large = steps
    images = (BATCHES[1] - BATCHES[0]) * MIB
    held, peak = (large.held - small.held) / images, (large.peak - small.peak) / images
    return PeakGrowth(held, peak - held, "forward" if large.forward_peak == large.peak else "backward")


def largest_batch(fit: MemoryFit, gib: float) -> int:
    """The largest training batch whose parameters, states and saved activations fit `gib` GiB; 0: none.

    The allocator's workspace and fragmentation are not in the estimate: leave some room for them.
    """
    if not gib > 0:
        raise HarnessError(f"memory {gib:g} GiB: expected more than 0")
    room = gib * 1024 - fit.mib_fixed - max(fit.mib_batch_free, 0.0)
    return max(0, floor(room / max(fit.mib_per_image, fit.growth.peak_mib if fit.growth else 0.0)))


def saved_bytes(call: Callable[[], Any], excluded: nn.Module) -> int:
    """Bytes saved for backward by a call, each storage once, without parameters and buffers of `excluded`."""
    owned = {_storage(tensor) for tensor in chain(excluded.parameters(), excluded.buffers())}
    found: dict[StorageWeakRef, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        key = _storage(tensor)
        if key not in owned:
            found.setdefault(key, tensor)
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    total = sum(tensor.untyped_storage().nbytes() for tensor in found.values())
    del result
    return total


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())


def _saved(
    model: nn.Module, reducer: TokenReducer[Any], batch: int, attention: str, sample: Sample | None = None
) -> int:
    """Bytes that one training forward of a batch saves, having checked which attention was taken."""
    device, counter = _device(model), MacCounter()
    images, guide = tower_inputs(model, reducer, batch, device, next(model.parameters()).dtype, sample=sample)
    call = tower_call(model, reducer, images, guide)
    both = nn.ModuleList([model, reducer])
    with mode_of(both, True), torch.enable_grad(), attention_path(attention) as asked, counter:
        total = saved_bytes(call, both)
    check_path(counter, attention, asked["main"], device)
    return total


def check_path(counter: MacCounter, attention: str, asked: int, device: torch.device) -> None:
    """HarnessError unless the attention path named was taken as often as a pass asked for it.

    That is in every block, but where a method makes a map of its own.
    """
    fused = sum(times for (_, phase), times in counter.fused.items() if phase == "main")
    maps = counter.maps["main"]
    # A pooling head may use one more fused attention, of one query.
    taken = fused >= asked if attention == "fused" else fused <= 1 and maps >= asked
    if not taken:
        raise HarnessError(
            f"attention {attention}: torch took fused attention in {fused} of {asked} blocks on "
            f"{device.type} (dropout on the map or a missing GPU can prevent it): ask for the other path"
        )


def _cuda_step(
    model: nn.Module, reducer: TokenReducer[Any], batch: int, attention: str, sample: Sample | None = None
) -> StepBytes:
    """Bytes allocated on the GPU in a training step, after one that warms up."""
    device = _device(model)
    images, guide = tower_inputs(model, reducer, batch, device, next(model.parameters()).dtype, sample=sample)
    call = tower_call(model, reducer, images, guide)
    both = nn.ModuleList([model, reducer])
    with mode_of(both, True), torch.enable_grad(), attention_path(attention):
        for _ in range(2):
            both.zero_grad(set_to_none=True)
            gc.collect()
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            loss = scalar(call())
            held, forward_peak = torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
            if loss is not None:
                loss.backward()
            torch.cuda.synchronize(device)
            del loss
    peak = torch.cuda.max_memory_allocated(device)
    both.zero_grad(set_to_none=True)
    return StepBytes(held, forward_peak, peak)


def _fit(
    saved: list[int],
    model: nn.Module,
    reducer: nn.Module,
    attention: str,
    source: str,
    growth: PeakGrowth | None = None,
    dtype: torch.dtype | None = None,
) -> MemoryFit:
    slope = (saved[1] - saved[0]) / (BATCHES[1] - BATCHES[0])
    return MemoryFit(
        slope / MIB,
        (saved[0] - BATCHES[0] * slope) / MIB,
        fixed_mib(model, reducer, dtype=dtype),
        attention,
        source,
        growth,
    )


def fixed_mib(*modules: nn.Module, dtype: torch.dtype | None = None) -> float:
    """Parameters, gradients and AdamW states in MiB, in `dtype` or the parameters' own; frozen: one copy."""
    parameters = [parameter for module in modules for parameter in module.parameters()]
    return (
        sum(
            parameter.numel() * (dtype or parameter.dtype).itemsize * (TRAINED_COPIES if parameter.requires_grad else 1)
            for parameter in parameters
        )
        / MIB
    )


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
