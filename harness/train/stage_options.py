"""Which stages of training a protocol has, and what was chosen of one: --set-train finetune.steps=300."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.kit.errors import HarnessError
from harness.kit.registry import unknown
from harness.kit.settings import validated
from harness.objectives.parts.recipe import Recipe
from harness.train.request import FinetuneSpec, PretrainSpec, TrainSpec

# The stages of each protocol, in their order.
STAGES: dict[str, tuple[str, ...]] = {
    "inference": (),
    "finetune": ("finetune",),
    "pretrain": ("pretrain", "finetune"),
}
SPECS: dict[str, type[TrainSpec]] = {"pretrain": PretrainSpec, "finetune": FinetuneSpec}


def check_stages(protocol: str, given: Mapping[str, Any]) -> None:
    """HarnessError for an unknown protocol, and for choices about a stage that nobody knows or the protocol lacks."""
    if protocol not in STAGES:
        raise unknown("protocol", protocol, STAGES)
    for stage in given:
        if stage not in SPECS:
            raise unknown("stage of training", stage, SPECS)
        if stage not in STAGES[protocol]:
            needed = " or ".join(name for name, stages in STAGES.items() if stage in stages)
            raise HarnessError(
                f"--set-train {stage}: protocol {protocol} has no such stage; leave it out or take --protocol {needed}"
            )


def read_options(stage: str, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A stage's spec (of the class in SPECS), and the numbers that are changed in its recipe.

    HarnessError for names that are neither and for values that cannot be; the recipe checks its own numbers.
    """
    kind = SPECS[stage]
    for name in given:
        if name not in kind.model_fields and name not in Recipe.model_fields:
            raise unknown(f"--set-train {stage} option", name, {*kind.model_fields, *Recipe.model_fields})
    chosen = {name: value for name, value in given.items() if name in kind.model_fields}
    numbers = {name: value for name, value in given.items() if name not in kind.model_fields}
    return validated(kind, chosen, f"--set-train {stage}"), numbers
