"""Time a reduced tower and the dense one in turns, so that their ratio holds while the machine drifts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from math import floor
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from torch import nn

from harness.cost.flops import MacCounter
from harness.cost.probe import mode_of, tower_call, tower_inputs
from harness.kit.allocator import keep_freed_memory
from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT, Bar, Progress
from harness.reduction import TokenReducer
from harness.reduction.budget import make_reducer
from harness.reduction.kernels import attention_path
from harness.reduction.plan import Sample
from harness.reduction.scores import scores_watched

WARM_UP = 3
# What the pairs of a tower's timing may take; a quick one takes these.
LATENCY_SECONDS = 5.0
QUICK_SECONDS = 0.5


def measure_latency(
    model: nn.Module,
    reducer: TokenReducer[Any],
    *,
    batch_size: int = 1,
    runs: int = 30,
    seconds: float = LATENCY_SECONDS,
    attention: str = "fused",
    sample: Sample | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Forward latency of a batch, in evaluation mode and without gradients, on the model's device.

    Method and dense run in turns, each first every other time; at most `runs` pairs, and none begins after
    `seconds` once five are done. `ratio` is the median over pairs of method / dense, `ratio_iqr` their quartiles. CUDA
    events time a GPU, perf_counter a CPU. `sample`: the images for an adaptive method. Raises HarnessError for fewer
    than 5 runs or a batch below 1.
    """
    if runs < 5 or batch_size < 1:
        raise HarnessError(f"latency with {runs} runs of batch {batch_size}: expected at least 5 runs and 1 image")
    keep_freed_memory()
    parameter = next(model.parameters())
    device = parameter.device
    images, guide = tower_inputs(model, reducer, batch_size, device, parameter.dtype, "rand", sample)
    dense = make_reducer("dense", reducer.shape)
    reduced_call, dense_call = (tower_call(model, method, images, guide) for method in (reducer, dense))
    clock = _cuda_ms if device.type == "cuda" else _cpu_ms
    place = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    percent = progress.bar("latency, %", 100, timed=True)
    with mode_of(model, False), torch.no_grad(), attention_path(attention), place, percent as bar:
        with scores_watched(reducer):  # what is timed below sees the same images, and no watch
            backends = attention_backends(reduced_call)
        for _ in range(WARM_UP):
            reduced_call()
            dense_call()
        pairs = _pairs(lambda: clock(reduced_call), lambda: clock(dense_call), runs, seconds, bar)
    times = [pair[0] for pair in pairs]
    low, _, high = quantiles(times, n=4, method="inclusive")
    quotients = [reduced / full for reduced, full in pairs]
    ratio_low, ratio, ratio_high = quantiles(quotients, n=4, method="inclusive")
    return {
        "median_ms": median(times),
        "iqr_ms": high - low,
        "dense_median_ms": median(pair[1] for pair in pairs),
        "ratio": ratio,
        "ratio_iqr": [ratio_low, ratio_high],
        "runs": len(pairs),
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "attention_backend": backends,
        "device": device_name(device),
    }


def attention_backends(call: Callable[[], Any]) -> str:
    """The fused attention operators that a call really dispatches; 'math' where it materialises the map."""
    counter = MacCounter()
    with counter:
        call()
    names = {name.removeprefix("_scaled_dot_product_") for name, _ in counter.fused}
    if counter.maps["main"]:
        names.add("math")
    return "+".join(sorted(names)) or "none"


def device_name(device: torch.device) -> str:
    """The GPU's name, or the device's type."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _pairs(
    first: Callable[[], float], second: Callable[[], float], runs: int, seconds: float, bar: Bar
) -> list[tuple[float, float]]:
    pairs: list[tuple[float, float]] = []
    start = perf_counter()
    while len(pairs) < runs and (len(pairs) < 5 or perf_counter() - start < seconds):
        if len(pairs) % 2:
            dense = second()
            pairs.append((first(), dense))
        else:
            pairs.append((first(), second()))
        # Whichever limit is nearer ends it: the number of pairs, or the time once five are done.
        by_time = min(len(pairs) / 5, (perf_counter() - start) / seconds) if seconds > 0 else len(pairs) / 5
        bar.advance(floor(100 * min(1.0, max(len(pairs) / runs, by_time))) - bar.done)
    return pairs


def _cpu_ms(call: Callable[[], Any]) -> float:
    start = perf_counter()
    call()
    return (perf_counter() - start) * 1e3


def _cuda_ms(call: Callable[[], Any]) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))
