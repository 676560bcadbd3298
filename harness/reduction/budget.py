"""From a method's name, settings and a budget to a reducer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.kit.errors import BrokenMethod, HarnessError, first_line, is_out_of_memory, warn_once
from harness.kit.registry import methods
from harness.kit.settings import validated
from harness.kit.sources import place_in
from harness.reduction.method import MethodConfig, TokenReducer
from harness.reduction.plan import token_counts
from harness.reduction.schedule import check_ratio, parse_schedule, solve, token_ratio
from harness.reduction.stack import EVIDENCE_KINDS, BlockHooks, StackShape


def make_config(method: str, settings: Mapping[str, Any] | None = None, schedule: Any = None) -> MethodConfig:
    """A method's config: its paper's defaults, a schedule's shape, then single settings. Raises HarnessError."""
    kind = methods.get(method)
    config: MethodConfig = validated(kind.Config, dict(settings or {}), f"method {method}")
    shape = parse_schedule(schedule)
    return config if shape is None else config.with_schedule(shape)


def make_reducer(
    method: str,
    shape: StackShape,
    *,
    ratio: float | None = None,
    schedule: Any = None,
    settings: Mapping[str, Any] | None = None,
    measured: Callable[[TokenReducer[Any]], float] | None = None,
) -> TokenReducer[Any]:
    """The reducer of a method on a tower; with `ratio`, its config bent to that token ratio (nearest reachable).

    `measured`: the token ratio of a reducer on images, for adaptive methods, whose counts nothing else tells.
    Raises HarnessError for unknown names or settings, impossible schedules, unreachable ratios, and methods that need a
    class token, or a stack, that is not there, or whose attention does not know the tower's relative positions.
    """
    if ratio is not None:
        check_ratio(ratio)
    kind = methods.get(method)
    if kind.needs_class_token and not shape.class_token:
        raise HarnessError(
            f"method {method} needs a class token and {shape.name} has none: choose another method or tower"
        )
    if not kind.stacks & shape.kinds:
        raise HarnessError(
            f"method {method} works in {' and '.join(sorted(kind.stacks))}, which {shape.name} has not: choose another "
            "method or host"
        )
    if shape.pairwise and kind.stacks & {shape.kind} and kind.attention is not BlockHooks.attention:
        raise HarnessError(
            f"method {method} computes attention itself and would leave out the relative positions of {shape.name}: "
            "choose another method or tower"
        )
    at = bender(method, shape, schedule, settings)
    as_set = at(None)  # refuses settings that cannot be, also where a ratio bends them
    if ratio is None:
        for line in as_set.remarks():
            warn_once(line)
        return as_set
    given = {name for name in settings or {} if name != "schedule"}
    if given:
        _check_one_budget(method, given, [as_set, at(0.5), at(2.0)], ratio)
    if kind.adaptive and ratio < 1 and measured is None:
        raise HarnessError(
            f"method {method} is adaptive: a ratio of it is measured on images, and there are none here; leave "
            "the ratio out, for its own setting, or take `run`, which has images"
        )
    realised = realised_ratio if measured is None or not kind.adaptive else measured
    step = 1 / (shape.depth * shape.patches)

    def found(gamma: float) -> float:
        # The parameters of a method that learns are drawn alike at every bend: only the setting differs.
        with torch.random.fork_rng(devices=[]):
            return realised(at(gamma))

    exact = kind.adaptive and ratio == 1
    reducer = at(0.0 if exact else solve(found, ratio, step=step, tolerance=kind.tolerance))
    config = reducer.config.aimed(ratio)
    return reducer if config is reducer.config else kind(config, shape)


def _check_one_budget(method: str, given: Iterable[str], bends: Sequence[TokenReducer[Any]], ratio: float) -> None:
    """HarnessError where a setting that is given sets the budget that a ratio sets too: it differs between bends."""
    for name in sorted(given):
        values = [getattr(made.config, name) for made in bends]
        if any(value != values[0] for value in values):
            raise HarnessError(
                f"method {method}: {name}={values[0]} and ratio {ratio:g} both set its budget; leave one of them out"
            )


def bender(
    method: str, shape: StackShape, schedule: Any = None, settings: Mapping[str, Any] | None = None
) -> Callable[[float | None], TokenReducer[Any]]:
    """gamma -> the method's reducer bent by it; None -> the setting itself.

    A control that is `like` another method takes that method's token counts at the same bend.
    """
    kind = methods.get(method)
    settings = dict(settings or {})
    if "like" not in kind.Config.model_fields or settings.get("attention_tokens"):
        config = make_config(method, settings, schedule)
        return lambda gamma: _made(method, kind, config if gamma is None else config.bent(gamma), shape)
    control: Any = make_config(method, settings)
    if control.like == method:
        raise HarnessError(f"method {method}: like={method} refers to itself; name the method to be compared with")
    compared = bender(control.like, shape, schedule)

    def alike(gamma: float | None) -> TokenReducer[Any]:
        counts = token_counts(compared(gamma))
        filled = {
            "attention_tokens": tuple(count - shape.prefix for count in counts.attention),
            "mlp_tokens": tuple(count - shape.prefix for count in counts.mlp),
        }
        return _made(method, kind, control.model_copy(update=filled), shape)

    return alike


def _made(method: str, kind: type[TokenReducer[Any]], config: MethodConfig, shape: StackShape) -> TokenReducer[Any]:
    """The reducer; HarnessError where its class, which may be a stranger's, raises whatever else."""
    place = f"method {method}: {kind.__module__}.{kind.__name__}"
    try:
        made = kind(config, shape)
        asked = {name for block in range(shape.depth) for name in made.evidence(block)}
    except HarnessError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = f"{place_in(error, kind.__module__)}{first_line(error)}"
        raise BrokenMethod(f"{place} cannot be made: {reason}") from error
    if getattr(made, "shape", None) is not shape:
        raise BrokenMethod(f"{place}: its __init__ does not call super().__init__(config, shape)")
    if (loose := _loose(made)) is not None:
        raise BrokenMethod(f"{place}: {loose}")
    if asked - EVIDENCE_KINDS:
        named = ", ".join(sorted(EVIDENCE_KINDS))
        raise BrokenMethod(f"{place}: unknown evidence {', '.join(sorted(asked - EVIDENCE_KINDS))}: there are {named}")
    return made


def _loose(reducer: nn.Module) -> str | None:
    """What a module would neither train nor save, because torch does not know of it, and what to do; None for none."""
    for module in reducer.modules():
        for name, value in vars(module).items():
            if name.startswith("_"):
                continue
            if isinstance(value, Tensor) and value.requires_grad:
                return f"{name} is a tensor that asks for a gradient, and no torch.nn.Parameter: make it one"
            held, kind = tuple[Any, ...](), ""
            if isinstance(value, Mapping):
                held, kind = tuple(value.values()), "ModuleDict or ParameterDict"
            elif isinstance(value, list | tuple):
                held, kind = tuple(value), "ModuleList or ParameterList"
            if any(isinstance(one, nn.Module | nn.Parameter) for one in held):
                return f"{name} holds layers in a {type(value).__name__}, which are not trained: use torch.nn.{kind}"
    return None


def realised_ratio(reducer: TokenReducer[Any]) -> float:
    """The token ratio a reducer really has: mean of patch-derived tokens entering each MLP over n0."""
    shape = reducer.shape
    return token_ratio([count - shape.prefix for count in token_counts(reducer).mlp], shape.patches)
