"""MACs of a reduced tower, and a method's setting that spends a given share of the dense tower's MACs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from harness.cost.flops import Counts, count
from harness.cost.probe import runs_fast, skeleton, tower_call, tower_inputs, without_data
from harness.kit.errors import HarnessError
from harness.reduction import TokenReducer, Trace
from harness.reduction.budget import bender, make_reducer
from harness.reduction.plan import token_counts
from harness.reduction.schedule import check_ratio, solve

M = TypeVar("M", bound=nn.Module)


def module_macs(module: M, call: Callable[[M, str], Any], *, train_step: bool = True) -> Counts:
    """MACs of any call on a module, without its data: `module_macs(albef, lambda m, device: m.fuse(…))`.

    `call` gets a data-free copy of the module and the device to make its inputs on ("meta", or "cpu" where
    values decide). An input that comes from another trained part should be made with requires_grad.
    """

    def attempt(device: str) -> Counts:
        copy = skeleton(module, device)
        return count(lambda: call(copy, device), train_step=train_step)

    return without_data(attempt)


def tower_macs(
    model: nn.Module,
    reducer: TokenReducer[Any],
    *,
    with_head: bool = True,
    train_step: bool = True,
    device: str | None = None,
    trace: Trace | None = None,
) -> Counts:
    """MACs of one image through a reduced tower, counted on meta tensors unless a device is named.

    `with_head`: the model's pooling and classifier count too. `trace` gets the tokens of each block.
    The method's own trainable parameters take part in the training step, for which a method that learns is in training
    mode: where it only hides tokens then, all of them count. Of one that reduces only in training, the step and the
    trace are training's, the forward pass is evaluation's.
    """
    trained = reducer.learns or reducer.only_in_training

    def attempt(where: str, training: bool = False) -> Counts:
        copy, method = skeleton(model, where).eval(), skeleton(reducer, where).train(training)
        images, guide = tower_inputs(copy, method, 1, where, _dtype(copy))
        seen = Trace()
        counts = count(tower_call(copy, method, images, guide, seen, with_head), train_step=train_step)
        if trace is not None and training == reducer.only_in_training:
            trace.attention, trace.mlp = seen.attention, seen.mlp
        return counts

    def counted(training: bool) -> Counts:
        run = partial(attempt, training=training)
        if device is not None:
            return run(device)
        return run("cpu") if runs_fast(model) else without_data(run)

    counts = counted(False)
    return replace(counts, train_step=counted(True).train_step) if train_step and trained else counts


def _dtype(model: nn.Module) -> torch.dtype:
    return next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())


def macs_ratio(model: nn.Module, reducer: TokenReducer[Any], dense: int | None = None, match: str = "macs") -> float:
    """MACs of the reduced tower, overhead included, over the dense one's (`dense`, else counted); see `spent`."""
    counts = tower_macs(model, reducer, train_step=match == "train-macs")
    return spent(counts, match) / (dense_macs(model, match) if dense is None else dense)


def spent(counts: Counts, match: str) -> int:
    """What a budget in MACs is of: the forward pass (macs), or a training step (train-macs)."""
    return counts.train_step_total if match == "train-macs" else counts.forward_total


def dense_macs(model: nn.Module, match: str = "macs") -> int:
    """MACs of one image through the tower with all tokens; see `spent`."""
    from harness.hosts.parts.towers import open_tower

    dense = make_reducer("dense", open_tower(model).shape)
    return spent(tower_macs(model, dense, train_step=match == "train-macs"), match)


def reducer_at_macs(
    method: str,
    model: nn.Module,
    ratio: float,
    schedule: Any = None,
    settings: Mapping[str, Any] | None = None,
    *,
    match: str = "macs",
    counted: Callable[[TokenReducer[Any]], Counts] | None = None,
) -> TokenReducer[Any]:
    """The method bent so that its forward MACs, scoring and matching included, are `ratio` of dense; with `match`
    train-macs, those of a training step.

    `counted`: a reducer's MACs as the mean over images, for adaptive methods, whose counts nothing else tells. Raises
    HarnessError, naming the reachable range, when no bend comes within the method's tolerance, and for an adaptive
    method without images.
    """
    from harness.hosts.parts.towers import open_tower

    check_ratio(ratio)
    model = skeleton(model)
    shape = open_tower(model).shape
    made = make_reducer(method, shape, schedule=schedule, settings=settings)  # refuses what cannot be built, by name
    if made.adaptive and counted is None:
        raise HarnessError(
            f"method {method} is adaptive: its MACs are measured on images, and there are none here; use --match tokens"
        )
    at = bender(method, shape, schedule, settings)
    dense = dense_macs(model, match)
    step = 1 / (shape.depth * shape.patches)
    seen: dict[tuple[int, ...], float] = {}

    def realised(gamma: float) -> float:
        # The parameters of a method that learns are drawn alike at every bend: only the setting differs.
        with torch.random.fork_rng(devices=[]):
            reducer = at(gamma)
        if counted is not None and reducer.adaptive:
            return spent(counted(reducer.eval()), match) / dense
        # A bend too small to move a token costs what the last one did: the tokens of the blocks are the key.
        counts = token_counts(reducer)
        key = (*counts.attention, *counts.mlp)
        if key not in seen:
            seen[key] = macs_ratio(model, reducer, dense, match)
        return seen[key]

    what = "training MACs ratio" if match == "train-macs" else "MACs ratio"
    return at(solve(realised, ratio, step=step, tolerance=type(made).tolerance, what=what))
