"""Where the time of a training step goes, by kind of operation, from torch's profiler."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile

# In the order in which a name is looked up; what none of them names is the rest.
KINDS: dict[str, re.Pattern[str]] = {
    "attention": re.compile(r"attention"),
    "products": re.compile(r"\b(addmm|addbmm|baddbmm|mm|bmm|matmul|mkldnn_linear)\b|convolution|conv2d"),
    "activations": re.compile(r"gelu|sigmoid|relu|softmax|tanh"),
    "norms": re.compile(r"norm"),
    "copies": re.compile(r"copy|clone|\bcat\b|fill_|zero_|contiguous|index_select|gather|scatter|embedding"),
    "optimizer": re.compile(r"adam|_foreach_"),
}
REST = "rest"


def kind_of(operation: str) -> str:
    """The kind of an operation by the profiler's name of it, as `aten::addmm`."""
    return next((kind for kind, names in KINDS.items() if names.search(operation)), REST)


def time_shares(step: Callable[[], Any], on_gpu: bool) -> dict[str, float]:
    """The share of each kind in the time that the operations of one step take themselves, largest first; sums to 1."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler says on stderr that it begins, and of missing GPUs
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as profiler:
        step()
    spent = dict.fromkeys((*KINDS, REST), 0.0)
    for event in profiler.key_averages():
        if event.device_type.name != "CPU":  # a GPU's kernels are counted with the operations that started them
            continue
        spent[kind_of(event.key)] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    whole = sum(spent.values())
    return {kind: time / whole for kind, time in sorted(spent.items(), key=lambda item: -item[1])}
