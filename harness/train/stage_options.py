"""What can be chosen of a stage of training from the command line: --set-train finetune.steps=300."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, field_validator

from harness.kit.errors import HarnessError
from harness.kit.registry import unknown
from harness.kit.settings import validated
from harness.objectives.recipe import Recipe

# The stages of each protocol, in their order.
STAGES: dict[str, tuple[str, ...]] = {
    "inference": (),
    "finetune": ("finetune",),
    "pretrain": ("pretrain", "finetune"),
}


class StageOptions(BaseModel):
    """What every stage lets one choose, beside any number of its recipe.

    data: what to train on (None: for fine-tuning what is evaluated, for pre-training scenes). workers (processes that
    load images) and save_every (steps between checkpoints) change no result.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: tuple[str, ...] | None = None
    root: str | None = None
    steps: PositiveInt | None = None
    precision: str = "no"
    recompute: bool = False
    tokenizer: str | None = None
    workers: NonNegativeInt = 0
    save_every: PositiveInt = 1000

    @field_validator("data", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("precision", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return "no" if value is False else value  # YAML reads the word no as false


class PretrainOptions(StageOptions):
    """init: weights to go on from; init_vision, init_text: of one side alone; vocabulary: words of one built anew."""

    init: str | None = None
    init_vision: str | None = None
    init_text: str | None = None
    vocabulary: PositiveInt | None = None


class FinetuneOptions(StageOptions):
    """split: what to train on of sets with splits (None: train). answers: a JSON list that vqa chooses from."""

    split: str | None = None
    answers: str | None = None


OPTIONS: dict[str, type[StageOptions]] = {"pretrain": PretrainOptions, "finetune": FinetuneOptions}


def check_stages(protocol: str, given: Mapping[str, Any]) -> None:
    """HarnessError for an unknown protocol, and for choices about a stage that nobody knows or the protocol lacks."""
    if protocol not in STAGES:
        raise unknown("protocol", protocol, STAGES)
    for stage in given:
        if stage not in OPTIONS:
            raise unknown("stage of training", stage, OPTIONS)
        if stage not in STAGES[protocol]:
            needed = " or ".join(name for name, stages in STAGES.items() if stage in stages)
            raise HarnessError(
                f"--set-train {stage}: protocol {protocol} has no such stage; leave it out or take --protocol {needed}"
            )


def read_options(stage: str, given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A stage's options (of the class in OPTIONS), and the numbers that are changed in its recipe.

    HarnessError for names that are neither and for values that cannot be; the recipe checks its own numbers.
    """
    kind = OPTIONS[stage]
    for name in given:
        if name not in kind.model_fields and name not in Recipe.model_fields:
            raise unknown(f"--set-train {stage} option", name, {*kind.model_fields, *Recipe.model_fields})
    chosen = {name: value for name, value in given.items() if name in kind.model_fields}
    numbers = {name: value for name, value in given.items() if name not in kind.model_fields}
    return validated(kind, chosen, f"--set-train {stage}"), numbers
