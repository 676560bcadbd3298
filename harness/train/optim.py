"""AdamW over a host's parameters: no weight decay on vectors, and multiples of the rate where a recipe says so."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW

from harness.errors import HarnessError
from harness.train.recipe import Recipe


def make_optimizer(model: nn.Module, recipe: Recipe) -> AdamW:
    """AdamW; biases, norms and single numbers are not decayed. Each group carries its `factor` of the rate.

    Raises HarnessError for a multiplier that no parameter's name begins with.
    """
    unused = set(recipe.multipliers)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = name.removeprefix("host.")
            prefixes = [prefix for prefix in recipe.multipliers if plain.startswith(prefix)]
            unused.difference_update(prefixes)
            key = (recipe.multipliers[prefixes[0]] if prefixes else 1.0, parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    if unused:
        raise HarnessError(f"multiplier of {min(unused)}: no trained parameter's name begins so; correct the recipe")
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


def set_rate(optimizer: AdamW, rate: float) -> None:
    """Give every group its multiple of a rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
