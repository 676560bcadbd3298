"""How many steps a pre-training has and of how many pairs: by pairs, by multiply-adds, and as memory allows.

What is asked for is the same for all methods that are compared; steps and batch follow from it for each method.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from harness.hosts.build import build_host
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.kit.settings import validated
from harness.objectives.parts.recipe import Recipe
from harness.train.request import PretrainSpec, fit_gib

if TYPE_CHECKING:
    from harness.cost.memory import MemoryFit
    from harness.objectives.parts.objective import Objective


@dataclass(frozen=True)
class Trained:
    """What is trained: a host of some sizes, by objectives, with a method whose config is resolved."""

    model: str
    sizes: Mapping[str, Any]
    objective: str | None
    objective_settings: Mapping[str, Mapping[str, Any]]
    method: str
    config: Mapping[str, Any]

    def dense(self) -> Trained:
        """The same without a method."""
        return replace(self, method="dense", config={})

    def gmacs_per_pair(self, recipe: Recipe) -> float:
        """GMACs of a training step of the whole host by pair, texts of the longest length."""
        return _gmacs(*self._named(), recipe.model_dump_json())

    def largest_batch(self, recipe: Recipe, gib: float) -> int:
        """The largest batch whose step fits `gib` GiB by the accounting of memory; HarnessError where none does."""
        from harness.cost.memory import largest_batch

        fit = _memory(*self._named(), recipe.model_dump_json())
        batch = largest_batch(fit, gib)
        if batch < 1:
            fixed = (fit.mib_fixed + max(fit.mib_batch_free, 0)) / 1024
            raise HarnessError(
                f"batch size fit:{gib:g}: not one pair fits; weights, gradients, optimizer and queues of {self.model} "
                f"take {fixed:.2f} GiB, and a pair {fit.mib_per_image:.1f} MiB"
            )
        return batch

    def _named(self) -> tuple[str, str, str | None, str, str, str]:
        parts = (dict(self.sizes), dict(self.objective_settings), dict(self.config))
        sizes, settings, config = (json.dumps(one, sort_keys=True) for one in parts)
        return self.model, sizes, self.objective, settings, self.method, config


@dataclass(frozen=True)
class Budget:
    """What is asked of a pre-training; `asked` says it, by the dotted name of what follows from it.

    steps: of dense. pairs: seen in all, in place of steps. batch_size: pairs of a step, or fit:GIB. equal: "macs" where
    all methods get the multiply-adds of dense at `ratio`, and "steps" where all get the same steps.
    """

    steps: int | None
    pairs: int | None
    batch_size: int | str | None
    equal: str

    @property
    def asked(self) -> dict[str, str]:
        """{'steps': '32000 pairs', 'recipe.batch_size': 'fit:4'}: empty where steps and batch are as they are named."""
        said = {}
        length = f"{self.pairs} pairs" if self.pairs is not None else f"{self.steps} steps"
        if self.equal == "macs":
            said["steps"] = f"MACs of dense in {length}"
        elif self.pairs is not None:
            said["steps"] = length
        if isinstance(self.batch_size, str):
            said["recipe.batch_size"] = self.batch_size
        return said

    def resolve(
        self, recipe: Recipe, trained: Trained, ratio: float | None, processes: int
    ) -> tuple[Recipe, int | None]:
        """The recipe with the batch, and the steps (None: those of the recipe's epochs).

        HarnessError for a budget that is smaller than one step, for a batch that does not fit, and for equal
        multiply-adds without a ratio or a length.
        """
        batch = self.batch_size
        if isinstance(batch, str):
            batch = trained.largest_batch(recipe, fit_gib(batch))
        if batch is not None:
            recipe = recipe.model_copy(update={"batch_size": batch})
        per_step = recipe.batch_size * recipe.accumulate * processes
        if self.equal == "macs":
            return recipe, self._steps_at_equal_macs(recipe, trained, ratio, per_step)
        if self.pairs is None:
            return recipe, self.steps
        return recipe, _whole_steps(self.pairs / per_step, f"{self.pairs} pairs", per_step)

    def _steps_at_equal_macs(self, recipe: Recipe, trained: Trained, ratio: float | None, per_step: int) -> int:
        pairs = self.pairs if self.pairs is not None else None if self.steps is None else self.steps * per_step
        if pairs is None:
            raise HarnessError("--budget macs: of how many steps of dense? name --steps or --pairs")
        if trained.method == "dense":
            return _whole_steps(pairs / per_step, f"{pairs} pairs", per_step)
        if ratio is None:
            raise HarnessError("--budget macs: the share of dense's multiply-adds is the ratio: name one")
        total = ratio * pairs * trained.dense().gmacs_per_pair(recipe)
        affordable = total / trained.gmacs_per_pair(recipe)
        return _whole_steps(affordable / per_step, f"{total:.4g} GMACs", per_step)


def budget_of(spec: PretrainSpec) -> Budget:
    """What a pre-training's options ask for; HarnessError where they ask for two lengths."""
    if spec.pairs is not None and spec.steps is not None:
        raise HarnessError(f"--pairs {spec.pairs} and --steps {spec.steps}: name one of them")
    return Budget(spec.steps, spec.pairs, spec.batch_size, spec.budget)


def _whole_steps(steps: float, budget: str, per_step: int) -> int:
    whole = math.floor(steps + 1e-9)
    if whole < 1:
        raise HarnessError(f"a budget of {budget} is less than one step of {per_step} pairs: raise it")
    return whole


@lru_cache(256)
def _gmacs(*named: Any) -> float:
    from harness.cost.host import objective_parts

    return sum(part["train_step_gmacs"] for part in objective_parts(_objective(*named)).values())


@lru_cache(64)
def _memory(*named: Any) -> MemoryFit:
    from harness.cost.host import objective_memory

    objective = _objective(*named)
    return objective_memory(objective, {named[4]: objective.reducer})[named[4]]["fused"]


def _objective(
    model: str, sizes: str, objective: str | None, settings: str, method: str, config: str, recipe: str
) -> Objective[Any]:
    """What is trained, on the meta device; what processes tell each other is left out."""
    from harness.cost.host import NO_WORDS
    from harness.objectives import choose

    kind, numbers = methods.get(method), Recipe.model_validate_json(recipe).model_copy(update={"negatives": "local"})
    with torch.device("meta"):
        host = build_host(model, **json.loads(sizes))
    # With data, since some of what is learned says how many tokens stay.
    reducer = kind(validated(kind.Config, json.loads(config), f"method {method}"), host.shape)
    with torch.device("meta"):
        return choose(model, objective, json.loads(settings)).make(host, reducer, NO_WORDS, numbers)
