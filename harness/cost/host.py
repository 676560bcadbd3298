"""The cost of a whole host in pre-training: MACs by part, and memory, of its real losses on tensors without data.

Vision is the student's tower with its scoring; momentum is all that the twin computes; other is what no part claims
(the contrast's similarities).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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
from harness.hosts.build import build_host
from harness.hosts.parts.tokenizer import Specials
from harness.kit.errors import HarnessError
from harness.objectives import make_objective
from harness.objectives.parts.objective import Moment, Objective, Pairs
from harness.objectives.parts.recipe import Recipe, recipe_of
from harness.reduction import TokenReducer
from harness.reduction.budget import make_reducer
from harness.reduction.kernels import ATTENTION_PATHS, attention_path

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
# By method of the objective, what its twin was found to say.
Known = dict[str, Any]
_part: ContextVar[str] = ContextVar("part", default=OTHER)


def host_parts(
    name: str, reducer: TokenReducer[Any], image_size: int | None = None, recipe: Recipe | None = None
) -> dict[str, dict[str, float]]:
    """GMACs of one pair in a pre-training step, by part: forward_gmacs and train_step_gmacs.

    Counted over a batch of the recipe, by default the host's own, whose texts are of the longest length.
    """
    return objective_parts(meta_objective(name, reducer, image_size, recipe))


def objective_parts(objective: Objective[Any]) -> dict[str, dict[str, float]]:
    """The same of a module on the meta device that is trained, whatever it minimises of pairs.

    Where a recipe's steps differ, as those without matching do, of the mean step.
    """
    batch, late = objective.recipe.batch_size, objective.recipe.matching_from
    steps = [(1 - late, _count(objective, batch, 1.0)), *([(late, _count(objective, batch, 0.0))] if late else [])]

    def mean(macs: Callable[[Counts], Mapping[str, int]], part: str) -> float:
        return sum(share * macs(counts).get(part, 0) for share, counts in steps) / batch / GIGA

    whole = steps[0][1].train_step
    return {
        part: {
            "forward_gmacs": mean(lambda counts: counts.forward, part),
            "train_step_gmacs": mean(lambda counts: counts.train_step, part),
        }
        for part in sorted(whole, key=lambda part: -whole[part])
    }


def compare_memory(name: str, reducer: TokenReducer[Any], gib: float, image_size: int | None = None) -> dict[str, Any]:
    """Memory of a pre-training step of the whole host in float32, reduced and dense, by attention path.

    Each of "reduced" and "dense": train_mib_per_image, train_mib_fixed (weights, gradients, AdamW, twin, queues),
    train_mib_batch_free, largest_batch in `gib` GiB. "gain": the quotient of the largest batches, None where dense
    has none.
    """
    fits = host_memory(name, {"reduced": reducer, "dense": make_reducer("dense", reducer.shape)}, image_size)
    compared: dict[str, Any] = {"gib": gib}
    for path in ATTENTION_PATHS:
        entries = {
            label: {
                "train_mib_per_image": fit[path].mib_per_image,
                "train_mib_fixed": fit[path].mib_fixed,
                "train_mib_batch_free": fit[path].mib_batch_free,
                "largest_batch": largest_batch(fit[path], gib),
            }
            for label, fit in fits.items()
        }
        before, after = entries["dense"]["largest_batch"], entries["reduced"]["largest_batch"]
        compared[path] = {**entries, "gain": after / before if before else None}
    return compared


def host_memory(
    name: str, reducers: Mapping[str, TokenReducer[Any]], image_size: int | None = None
) -> dict[str, dict[str, MemoryFit]]:
    """For each reducer, by attention path, the memory of a pre-training step of the whole host in float32.

    Math attention runs on meta tensors. What fused attention saves less are maps and masks of single pairs, so that the
    difference grows with the batch: one more run, of the smaller batch, tells it. That run is on fake CPU tensors
    (FakeTensorMode), for which torch takes its fused kernel; it takes several times as long as one on meta tensors.
    """
    return objective_memory(meta_objective(name, next(iter(reducers.values())), image_size), reducers)


def objective_memory(
    objective: Objective[Any], reducers: Mapping[str, TokenReducer[Any]]
) -> dict[str, dict[str, MemoryFit]]:
    """The same of a module on the meta device that is trained, whatever it minimises of pairs."""
    twins: list[Known] = [{} for _ in BATCHES]
    math = {}
    for label, reducer in reducers.items():
        objective.reducer = reducer
        math[label] = [_saved(objective, batch, "math", known) for batch, known in zip(BATCHES, twins)]
    found = {}
    small, large = BATCHES
    with FakeTensorMode():
        fake, known = skeleton(objective, "cpu"), Known()
        for label, reducer in reducers.items():
            fake.reducer = skeleton(reducer, "cpu")
            fused = _saved(fake, small, "fused", known)
            difference = (math[label][0] - fused) * large // small
            objective.reducer = reducer
            found[label] = {
                "fused": _fit([fused, math[label][1] - difference], objective, "fused"),
                "math": _fit(math[label], objective, "math"),
            }
    return found


def meta_objective(
    name: str, reducer: TokenReducer[Any], image_size: int | None = None, recipe: Recipe | None = None
) -> Objective[Any]:
    """A host's pre-training objective on the meta device."""
    with torch.device("meta"):
        host = build_host(name, image_size=image_size)
        return make_objective(name, host, reducer, NO_WORDS, recipe or recipe_of(name, {}))


def _pairs(objective: Objective[Any], batch: int, device: str, dtype: torch.dtype = torch.float32) -> Pairs:
    config = objective.host.config
    ids = torch.full((batch, config.text_length), max(objective.specials.never_masked) + 1, device=device)
    return Pairs(
        torch.zeros(batch, 3, config.image_size, config.image_size, device=device, dtype=dtype),
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        torch.arange(batch, device=device),
    )


def _count(objective: Objective[Any], batch: int, done: float) -> Counts:
    """Of a step when this share of all steps is done."""

    def attempt(device: str) -> Counts:
        copy = skeleton(objective, device).eval()
        copy.reducer.train(copy.reducer.learns or copy.reducer.only_in_training)
        with _parts_of(copy):
            pairs = _pairs(copy, batch, device)
            return count(lambda: copy(pairs, Moment(alpha=copy.recipe.alpha, done=done)), label=_part.get, base=OTHER)

    return attempt("meta")


def _fit(saved: list[int], objective: Objective[Any], path: str) -> MemoryFit:
    slope = (saved[1] - saved[0]) / (BATCHES[1] - BATCHES[0])
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in objective.buffers()) / MIB
    free = (saved[0] - BATCHES[0] * slope) / MIB
    return MemoryFit(slope / MIB, free, fixed_mib(objective) + buffers, path, "estimated")


def _saved(objective: Objective[Any], batch: int, path: str, known: Known) -> int:
    """Bytes saved by one training forward, having checked which attention was taken.

    `known`: what the twin was found to say of as many pairs.
    """
    objective.train()
    if path == "fused":
        # Fused kernels on a GPU keep a seed instead of a dropout mask; the CPU's kernel refuses dropout altogether.
        for module in objective.modules():
            dropout = getattr(module, "dropout", None)
            if isinstance(dropout, nn.Dropout) and hasattr(module, "query"):
                dropout.p = 0.0
    pairs = _pairs(objective, batch, str(next(objective.parameters()).device))
    counter = MacCounter(_part.get, OTHER)
    with _parts_of(objective, known), torch.enable_grad(), attention_path(path) as asked, counter:
        total = saved_bytes(lambda: objective(pairs, Moment(alpha=objective.recipe.alpha, done=1.0)), objective)
    fused, maps = sum(counter.fused.values()), sum(counter.maps.values())
    if fused < asked.total() if path == "fused" else (fused > 0 or maps < asked.total()):
        raise HarnessError(f"attention {path}: torch took fused attention {fused} times and made {maps} maps")
    return total


@contextmanager
def _parts_of(objective: Objective[Any], known: Known | None = None) -> Iterator[None]:
    """Products of the objective inside are labelled with the part that computes them.

    With `known` the twin computes only what is not there yet: it saves nothing for backward, and what it says depends
    neither on the method nor on the attention path.
    """
    owners: list[tuple[Any, str, str]] = [(objective, "encode_images", "vision")]
    owners += [(objective.host, method, part) for method, part in PARTS.items() if hasattr(objective.host, method)]
    twin = [method for method in ("follow", "twin_words") if hasattr(objective, method)]
    owners += [(objective, method, "momentum") for method in twin]
    for owner, method, part in owners:
        owner.__dict__[method] = _labelled(getattr(owner, method), part)
    if known is not None:
        for method in twin:
            name = f"{method}, watched" if objective.reducer.needs_momentum else method
            objective.__dict__[method] = _recalled(objective.__dict__[method], name, known)
    try:
        yield
    finally:
        for owner, method, _ in owners:
            del owner.__dict__[method]


def _recalled(call: Callable[..., Any], name: str, known: Known) -> Callable[..., Any]:
    """The call, made only where its result is not `known` yet."""

    @wraps(call)
    def inner(*args: Any, **kwargs: Any) -> Any:
        if name not in known:
            known[name] = call(*args, **kwargs)
        return known[name]

    return inner


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
