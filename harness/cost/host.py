"""The cost of a whole host in pre-training: MACs by part, and memory, of its real losses on tensors without data.

Vision is the student's tower with its scoring; momentum is all that the twin computes; other is what no part claims
(the contrast's similarities).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.cost.flops import GIGA, Counts, MacCounter, count
from harness.cost.memory import BATCHES, MIB, MemoryFit, fixed_mib, largest_batch, saved_bytes
from harness.cost.probe import skeleton
from harness.errors import HarnessError
from harness.methods import make_reducer
from harness.models.attention import ATTENTION_PATHS, attention_path
from harness.models.build import build_host
from harness.models.tokenizer import Specials
from harness.models.towers import open_tower
from harness.reduction import TokenReducer
from harness.train.objective import Moment, Objective, Pairs
from harness.train.objectives import make_objective
from harness.train.recipe import recipe_of

OTHER = "other"
# The host's methods whose products belong to a part.
PARTS = {
    "encode_text": "text",
    "fuse": "fusion",
    "ground": "fusion",
    "co_attend": "fusion",
    "mlm_logits": "fusion",
    "match_logits": "fusion",
    "decode": "decoder",
}
# What a data-free host reads: it has no words, only their number.
NO_WORDS = Specials(pad=0, begin=1, end=2, mask=3, unknown=4)
_part: ContextVar[str] = ContextVar("part", default=OTHER)


def host_parts(name: str, reducer: TokenReducer[Any], image_size: int | None = None) -> dict[str, dict[str, float]]:
    """GMACs of one pair in a pre-training step, by part: forward_gmacs and train_step_gmacs.

    Counted over a batch of the recipe, whose texts are of the longest length.
    """
    objective = meta_objective(name, reducer, image_size)
    batch = objective.recipe.batch_size
    counts = _count(objective, batch)
    return {
        part: {
            "forward_gmacs": counts.forward.get(part, 0) / batch / GIGA,
            "train_step_gmacs": macs / batch / GIGA,
        }
        for part, macs in sorted(counts.train_step.items(), key=lambda entry: -entry[1])
    }


def host_memory(
    name: str, reducer: TokenReducer[Any], gib: float, image_size: int | None = None
) -> dict[str, dict[str, Any]]:
    """By attention path, the memory of a pre-training step of the whole host in float32, and the largest batch.

    Each entry: train_mib_per_image, train_mib_fixed (weights, gradients, AdamW, twin, queues), train_mib_batch_free,
    largest_batch in `gib` GiB.
    """
    objective = meta_objective(name, reducer, image_size)
    found = {}
    for path in ATTENTION_PATHS:
        fit = _memory_fit(objective, path)
        found[path] = {
            "train_mib_per_image": fit.mib_per_image,
            "train_mib_fixed": fit.mib_fixed,
            "train_mib_batch_free": fit.mib_batch_free,
            "largest_batch": largest_batch(fit, gib),
        }
    return found


def compare_memory(name: str, reducer: TokenReducer[Any], gib: float, image_size: int | None = None) -> dict[str, Any]:
    """A pre-training step of the whole host beside dense, by attention path; `gain` of the largest batches."""
    reduced = host_memory(name, reducer, gib, image_size)
    dense = host_memory(name, dense_like(name, image_size), gib, image_size)
    compared: dict[str, Any] = {"gib": gib}
    for path in ATTENTION_PATHS:
        before, after = dense[path]["largest_batch"], reduced[path]["largest_batch"]
        compared[path] = {"reduced": reduced[path], "dense": dense[path], "gain": after / before if before else None}
    return compared


def meta_objective(name: str, reducer: TokenReducer[Any], image_size: int | None = None) -> Objective[Any]:
    """A host's pre-training objective on the meta device."""
    with torch.device("meta"):
        host = build_host(name, image_size=image_size)
        return make_objective(name, host, reducer, NO_WORDS, recipe_of(name, {}))


def dense_like(name: str, image_size: int | None = None) -> TokenReducer[Any]:
    """Dense in the host's tower."""
    with torch.device("meta"):
        return make_reducer("dense", open_tower(build_host(name, image_size=image_size).vision).shape)


def _pairs(objective: Objective[Any], batch: int, device: str, dtype: torch.dtype = torch.float32) -> Pairs:
    config = objective.host.config
    ids = torch.full((batch, config.text_length), max(objective.specials.never_masked) + 1, device=device)
    return Pairs(
        torch.zeros(batch, 3, config.image_size, config.image_size, device=device, dtype=dtype),
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        torch.arange(batch, device=device),
    )


def _count(objective: Objective[Any], batch: int) -> Counts:
    def attempt(device: str) -> Counts:
        copy = skeleton(objective, device).eval()
        with _parts_of(copy):
            pairs = _pairs(copy, batch, device)
            return count(lambda: copy(pairs, Moment(alpha=0.4)), label=_part.get, base=OTHER)

    return attempt("meta")


def _memory_fit(objective: Objective[Any], path: str) -> MemoryFit:
    with FakeTensorMode():
        saved = [_saved(skeleton(objective, "cpu"), batch, path) for batch in BATCHES]
    slope = (saved[1] - saved[0]) / (BATCHES[1] - BATCHES[0])
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in objective.buffers()) / MIB
    free = (saved[0] - BATCHES[0] * slope) / MIB
    return MemoryFit(slope / MIB, free, fixed_mib(objective) + buffers, path, "estimated")


def _saved(objective: Objective[Any], batch: int, path: str) -> int:
    """Bytes saved by one training forward, having checked which attention was taken."""
    objective.train()
    if path == "fused":
        # Fused kernels on a GPU keep a seed instead of a dropout mask; the CPU's kernel refuses dropout altogether.
        for module in objective.modules():
            dropout = getattr(module, "dropout", None)
            if isinstance(dropout, nn.Dropout) and hasattr(module, "query"):
                dropout.p = 0.0
    pairs, counter = _pairs(objective, batch, "cpu"), MacCounter(_part.get, OTHER)
    with _parts_of(objective), torch.enable_grad(), attention_path(path), counter:
        total = saved_bytes(lambda: objective(pairs, Moment(alpha=0.4)), objective)
    # The twin saves nothing for backward: how it attends does not matter here.
    fused = sum(times for (_, part), times in counter.fused.items() if part != "momentum")
    maps = sum(times for part, times in counter.maps.items() if part != "momentum")
    if (fused == 0 or maps > 0) if path == "fused" else (fused > 0 or maps == 0):
        raise HarnessError(f"attention {path}: torch took fused attention {fused} times and made {maps} maps")
    return total


@contextmanager
def _parts_of(objective: Objective[Any]) -> Iterator[None]:
    """Products of the objective inside are labelled with the part that computes them."""
    owners: list[tuple[Any, str, str]] = [(objective, "encode_images", "vision")]
    owners += [(objective.host, method, part) for method, part in PARTS.items() if hasattr(objective.host, method)]
    owners += [
        (owner, method, "momentum")
        for owner, method in ((objective, "follow"), (objective, "twin_words"))
        if hasattr(owner, method)
    ]
    for owner, method, part in owners:
        owner.__dict__[method] = _labelled(getattr(owner, method), part)
    try:
        yield
    finally:
        for owner, method, _ in owners:
            del owner.__dict__[method]


def _labelled(call: Callable[..., Any], part: str) -> Callable[..., Any]:
    @wraps(call)
    def inner(*args: Any, **kwargs: Any) -> Any:
        # What one part calls of another (a decoder's words, the twin's text) stays with the caller.
        token = _part.set(part if _part.get() == OTHER else _part.get())
        try:
            return call(*args, **kwargs)
        finally:
            _part.reset(token)

    return inner
