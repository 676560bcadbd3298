"""The pre-training losses of each host, one file each."""

from __future__ import annotations

import importlib
from typing import Any

from harness.hosts.build import split_name
from harness.hosts.host import HostModel
from harness.hosts.parts.tokenizer import Specials
from harness.kit import ranks
from harness.kit.errors import HarnessError
from harness.objectives.objective import Objective
from harness.objectives.recipe import Recipe
from harness.reduction import TokenReducer

OBJECTIVES = {"albef": "AlbefObjective", "blip": "BlipObjective", "meter": "MeterObjective", "clip": "ClipObjective"}


def make_objective(
    name: str, host: HostModel, reducer: TokenReducer[Any], specials: Specials, recipe: Recipe
) -> Objective[Any]:
    """The objective of a host by its name, with a recipe's numbers.

    Raises HarnessError for a host without one, and for a batch in which a pair has no other beside it.
    """
    family = split_name(name)[0]
    if family not in OBJECTIVES:
        raise HarnessError(f"model {name}: no pre-training objective; there is one for {', '.join(OBJECTIVES)}")
    kind: type[Objective[Any]] = getattr(importlib.import_module(f"{__name__}.{family}"), OBJECTIVES[family])
    objective = kind(host, reducer, specials, recipe)
    processes = ranks.world() if objective.everywhere else 1
    if recipe.batch_size * processes < 2:
        raise HarnessError(
            f"batch size {recipe.batch_size}: a pair is told from the others of its batch; expected at least 2 pairs"
        )
    objective.prepare()
    return objective
