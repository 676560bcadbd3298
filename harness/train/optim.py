"""AdamW over a host's parameters: no weight decay on vectors, and multiples of the rate where a recipe says so."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import nn
from torch.optim import AdamW

from harness.kit.errors import HarnessError
from harness.objectives.parts.recipe import Recipe


def freeze(model: nn.Module, recipe: Recipe) -> None:
    """Ask for no gradient of parameters whose multiplier is 0, so that none is computed."""
    for name, parameter in model.named_parameters():
        if _factor(name, recipe) == 0:
            parameter.requires_grad_(False)


def is_matrix(parameter: nn.Parameter) -> bool:
    """Whether a parameter is none of biases, norms and single numbers."""
    return parameter.ndim > 1


def make_optimizer(model: nn.Module, recipe: Recipe, decays: Callable[[nn.Parameter], bool] = is_matrix) -> AdamW:
    """AdamW; `decays` says which parameters weight decay works on. Each group carries its `factor` of the rate.

    Parameters that ask for no gradient have no place in it: nothing moves them, weight decay neither. Raises
    HarnessError for a multiplier that no parameter's name begins with, and where nothing is left to train.
    """
    unused = set(recipe.multipliers)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = _factor(name, recipe)
        if parameter.requires_grad or factor == 0:
            unused.difference_update(_prefixes(name, recipe))
        if parameter.requires_grad:
            groups.setdefault((factor, decays(parameter)), []).append(parameter)
    if unused:
        raise HarnessError(f"multiplier of {min(unused)}: no trained parameter's name begins so; correct the recipe")
    if not groups:
        raise HarnessError("multipliers: 0 for every parameter, so that nothing is trained; leave one out")
    return AdamW(
        [
            {"params": members, "factor": factor, "weight_decay": recipe.weight_decay if decayed else 0.0}
            for (factor, decayed), members in groups.items()
        ],
        lr=0.0,
        betas=recipe.betas,
        eps=recipe.eps,
        fused=True,
    )


def _prefixes(name: str, recipe: Recipe) -> list[str]:
    """The multipliers that a parameter's name begins with; a `*` stands for one part of it, as a layer's number."""
    plain = name.removeprefix("host.")
    return [prefix for prefix in recipe.multipliers if re.match(re.escape(prefix).replace(r"\*", "[^.]+"), plain)]


def _factor(name: str, recipe: Recipe) -> float:
    """The multiplier with the longest beginning of a parameter's name, 1 where there is none."""
    return recipe.multipliers[max(found, key=len)] if (found := _prefixes(name, recipe)) else 1.0


def set_rate(optimizer: AdamW, rate: float) -> None:
    """Give every group its multiple of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
