"""One method on one tower: tokens, MACs, training memory and latency beside dense, as `cost --json` says."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from harness.cost.adaptive import image_counts, mean_macs, ratio_on, spread, token_ratios
from harness.cost.budget import reducer_at_macs, tower_macs
from harness.cost.cost import extra_parts
from harness.cost.flops import GIGA, Counts
from harness.cost.latency import LATENCY_SECONDS, measure_latency
from harness.cost.memory import EXPLAINED_GAP, MemoryFit, estimate_memory, largest_batch, measure_memory
from harness.cost.probe import image_shape
from harness.cost.vits import build_vit
from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT, Progress
from harness.reduction import StackShape, TokenReducer, Trace
from harness.reduction.budget import make_reducer, realised_ratio
from harness.reduction.kernels import ATTENTION_PATHS
from harness.reduction.plan import Sample

MATCHES = ("tokens", "macs", "train-macs")


def cost_report(
    model: str | nn.Module,
    method: str,
    *,
    ratio: float | None = None,
    schedule: Any = None,
    settings: Mapping[str, Any] | None = None,
    image_size: int | None = None,
    batch_size: int = 1,
    latency: bool = False,
    seconds: float = LATENCY_SECONDS,
    attention: str = "fused",
    device: str = "cpu",
    gib: float | None = None,
    match: str = "tokens",
    dtype: torch.dtype = torch.float32,
    name: str | None = None,
    sample: Sample | None = None,
    shape: StackShape | None = None,
    reducer: TokenReducer[Any] | None = None,
    counted: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """The `cost --json` object of a timm ViT by name, or of a ViT already built (a host's tower).

    MACs are per image at batch 1, in evaluation mode; `batch_size` and `seconds` are latency's. `match`: whether
    `ratio` is of tokens or of forward MACs. `gib` adds memory.largest_batch. `name` is printed for a built model. On
    `device` "cpu" memory is estimated; on "cuda" it is measured. `sample`: real images, on which adaptive methods are
    counted, in a model with its weights. `shape`: the tower's within its host.
    `reducer`: the method itself, where it has learned. `counted`: `counted_parts` that were found
    before. Raises HarnessError for what cannot be built or reached.
    """
    from harness.hosts.parts.towers import open_tower

    _check(attention, match, device)
    label = name or (model if isinstance(model, str) else type(model).__name__)
    vit, height = _sized(model, image_size, label)
    shape = open_tower(vit).shape if shape is None else shape
    attention = _path(shape, attention)
    reducer = reducer or _reducer(method, vit, shape, ratio, schedule, settings, match, sample)
    _check_sample(method, reducer, sample)
    on_gpu = device.startswith("cuda")
    runnable = _runnable(model, vit, image_size, device, dtype) if latency or on_gpu else None
    counts: Mapping[str, Any] = counted or counted_parts(
        vit, reducer, attention, dtype, gib, sample, measured_on=runnable if on_gpu else None
    )
    report = {
        "model": label,
        "method": method,
        "config": reducer.config.model_dump(mode="json"),
        "image_size": height,
        **{name: value for name, value in counts.items() if name != "memory"},
        "parts": None,
        "memory": counts["memory"],
        "latency": None,
    }
    if latency and runnable is not None:
        how: dict[str, Any] = {"batch_size": batch_size, "seconds": seconds, "attention": attention, "sample": sample}
        report["latency"] = measure_latency(runnable, reducer.to(device).eval(), progress=progress, **how)
    return report | extra_parts(vit, reducer, report, sample)


def _sized(model: str | nn.Module, image_size: int | None, label: str) -> tuple[nn.Module, int]:
    """The ViT of a name or within a built model, and its images' height; HarnessError for one of another size."""
    from harness.hosts.parts.towers import find_tower

    vit = build_vit(model, image_size) if isinstance(model, str) else find_tower(model)[1]
    height, width = image_shape(vit)[1:]
    if image_size is not None and (height, width) != (image_size, image_size):
        raise HarnessError(f"image size {image_size}: {label} was built for {height} x {width} pixels; leave it out")
    return vit, height


def _path(shape: StackShape, attention: str) -> str:
    """The attention path that is counted: torch's fused one on a CPU gives a bias of every pair no gradient."""
    return "math" if shape.pairwise and attention == "fused" else attention


def _runnable(
    model: str | nn.Module, vit: nn.Module, image_size: int | None, device: str, dtype: torch.dtype
) -> nn.Module:
    """The ViT with data to run with, on a device."""
    built = build_vit(model, image_size, device) if isinstance(model, str) else _on(vit, device)
    return built.to(dtype)


def counted_parts(
    vit: nn.Module,
    reducer: TokenReducer[Any],
    attention: str = "fused",
    dtype: torch.dtype = torch.float32,
    gib: float | None = None,
    sample: Sample | None = None,
    measured_on: nn.Module | None = None,
    dense: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The entries of a report that are counted: parameters, tokens, MACs and memory.

    measured_on: the tower on a GPU, where memory is measured. dense: the entry of that name, where it is known.
    """
    attention = _path(reducer.shape, attention)
    adaptive = sample is not None and reducer.adaptive
    macs = _macs_on(vit, reducer, sample) if adaptive and sample is not None else _macs(vit, reducer)
    return {
        "params_m": sum(parameter.numel() for module in (vit, reducer) for parameter in module.parameters()) / 1e6,
        **macs,
        "dense": dense or _dense(tower_macs(vit, make_reducer("dense", reducer.shape))),
        "memory": memory_part(vit, measured_on, reducer, attention, dtype, gib, sample),
    }


def _reducer(
    method: str,
    vit: nn.Module,
    shape: StackShape,
    ratio: float | None,
    schedule: Any,
    settings: Mapping[str, Any] | None,
    match: str,
    sample: Sample | None,
) -> TokenReducer[Any]:
    if match != "tokens" and ratio is not None:
        counted = None if sample is None else partial(mean_macs, vit, sample=sample, train_step=match == "train-macs")
        return reducer_at_macs(method, vit, ratio, schedule, settings, match=match, counted=counted)
    from harness.hosts.parts.towers import open_tower

    measured = None if sample is None else ratio_on(open_tower(vit), sample)
    return make_reducer(method, shape, ratio=ratio, schedule=schedule, settings=settings, measured=measured)


def _check(attention: str, match: str, device: str) -> None:
    """HarnessError for an unknown attention path or match, and for a GPU that is not there."""
    if attention not in ATTENTION_PATHS:
        raise HarnessError(f"attention {attention!r}: expected {' or '.join(ATTENTION_PATHS)}")
    if match not in MATCHES:
        raise HarnessError(f"match {match!r}: expected {' or '.join(MATCHES)}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise HarnessError(f"device {device}: torch finds no GPU here; use --device cpu")


def _check_sample(method: str, reducer: TokenReducer[Any], sample: Sample | None) -> None:
    """HarnessError for an adaptive method without the images that it is measured on."""
    if reducer.adaptive and sample is None:
        raise HarnessError(
            f"method {method} is adaptive: what it costs is measured on images; name a host with weights"
        )


def _on(model: nn.Module, device: str) -> nn.Module:
    """A copy of a built model on a device; HarnessError where it has no data to run with."""
    if any(parameter.is_meta for parameter in model.parameters()):
        raise HarnessError("a model on the meta device has no weights to run: build it on the CPU for latency")
    return copy.deepcopy(model).to(device)


def _macs(model: nn.Module, reducer: TokenReducer[Any]) -> dict[str, Any]:
    """Tokens per block, forward and training-step MACs."""
    trace = Trace()
    counts = tower_macs(model, reducer, trace=trace)
    return {
        "ratio": realised_ratio(reducer),
        "tokens_per_block": list(trace.attention),
        "tokens_per_mlp": list(trace.mlp),
        **counts.gmacs(),
    }


def _macs_on(model: nn.Module, reducer: TokenReducer[Any], sample: Sample) -> dict[str, Any]:
    """The same of an adaptive method: means over images, and how these differ."""
    from harness.hosts.parts.towers import open_tower

    tower = open_tower(model)
    counts = image_counts(tower, reducer, sample)
    per_block, per_mlp = (part.double().mean(dim=0).tolist() for part in (counts.attention, counts.mlp))
    return {
        "ratio": float(token_ratios(tower, counts).mean()),
        "tokens_per_block": per_block,
        "tokens_per_mlp": per_mlp,
        "spread": spread(tower, counts),
        **mean_macs(copy.deepcopy(model).eval(), copy.deepcopy(reducer).eval(), sample).gmacs(),
    }


def _dense(counts: Counts) -> dict[str, float]:
    return {
        "forward_gmacs": counts.forward_total / GIGA,
        "train_step_gmacs": counts.train_step_total / GIGA,
    }


def memory_part(
    model: nn.Module,
    measured_on: nn.Module | None,
    reducer: TokenReducer[Any],
    attention: str = "fused",
    dtype: torch.dtype = torch.float32,
    gib: float | None = None,
    sample: Sample | None = None,
) -> dict[str, Any]:
    """The `memory` object: estimated from `model`'s shapes (of an adaptive method: on real images), or measured on
    `measured_on`.
    """
    if measured_on is not None:
        method = copy.deepcopy(reducer).to(next(measured_on.parameters()).device, dtype)
        fit = measure_memory(measured_on, method, attention, sample=sample)
    elif reducer.adaptive:
        vit, method = copy.deepcopy(model).to(dtype), copy.deepcopy(reducer).to(dtype)
        fit = measure_memory(vit, method, attention, "estimated", sample)
    else:
        fit = estimate_memory(model, reducer, attention, dtype)
    return memory_json(fit, gib)


def memory_json(fit: MemoryFit, gib: float | None = None) -> dict[str, Any]:
    """A fit as the record holds it; the allocator's slope and its gap only where a GPU was measured.

    A gap above EXPLAINED_GAP comes with gap_parts: the slope's part that is held when the forward pass ends, the rest,
    which is temporary, and the pass that reaches the peak.
    """
    part: dict[str, Any] = {
        "train_mib_per_image": fit.mib_per_image,
        "train_mib_fixed": fit.mib_fixed,
        "attention": fit.attention,
        "source": fit.source,
    }
    if fit.growth is not None and fit.gap is not None:
        part |= {"peak_mib_per_image": fit.growth.peak_mib, "gap": fit.gap}
        if abs(fit.gap) > EXPLAINED_GAP:
            held, temporary = fit.growth.held_mib, fit.growth.temporary_mib
            part["gap_parts"] = {"saved_mib": held, "temporary_mib": temporary, "peak_in": fit.growth.peak_in}
    if gib is not None:
        part |= {"gib": gib, "largest_batch": largest_batch(fit, gib)}
    return part
