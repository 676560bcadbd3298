"""Recipes: every number a training run depends on beside its data; a host states those of its presets (RECIPES)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from harness.data.world import are_worlds
from harness.hosts.build import host_class, split_name
from harness.kit.errors import HarnessError
from harness.kit.settings import validated


class Recipe(BaseModel):
    """How a host is trained. Batch sizes are per process and micro-batch; steps are optimizer steps.

    learning_rate rises linearly from warmup_rate over warmup_steps (or warmup_share of all steps), stays for hold_share
    of those that are left, then falls to final_rate: `cosine` and `linear` over the rest, `exponential` by decay_rate
    each epoch, as BLIP's. multipliers: factor of the rate by the beginning of a parameter's name, the longest one
    counting; what has factor 0 is frozen: no gradient, no decay. alpha: weight of momentum distillation, reached
    linearly over alpha_ramp_epochs. matching_from: share of the steps before matching is trained; fusion learns sooner
    from hidden words alone which word is which object. crop: smallest and largest share of the image that a crop keeps;
    none: the whole image. For fine-tuning: answer_list, how many of the training set's answers a closed list made of
    them holds; false_texts, wrong texts that METER's retrieval ranks beside the right one; prompt, what every caption
    begins with. max_steps: at most so many steps, however many the epochs have.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    image_size: PositiveInt
    epochs: PositiveInt
    batch_size: PositiveInt
    accumulate: PositiveInt = 1
    learning_rate: float = Field(gt=0)
    final_rate: float = Field(default=0.0, ge=0)
    warmup_rate: float = Field(default=0.0, ge=0)
    warmup_steps: NonNegativeInt = 0
    warmup_share: float = Field(default=0.0, ge=0, lt=1)
    hold_share: float = Field(default=0.0, ge=0, lt=1)
    decay: Literal["cosine", "linear", "exponential"] = "cosine"
    decay_rate: float = Field(default=1.0, gt=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    clip_norm: float | None = Field(default=None, gt=0)
    multipliers: dict[str, NonNegativeFloat] = {}
    crop: tuple[float, float] | None = (0.2, 1.0)
    flip: bool = True
    randaugment: bool = True
    dropout: float | None = Field(default=None, ge=0, lt=1)
    negatives: Literal["global", "local"] = "local"
    matching_from: float = Field(default=0.0, ge=0, lt=1)
    momentum: float = Field(default=0.995, ge=0, le=1)
    queue_size: PositiveInt = 65536
    alpha: float = Field(default=0.4, ge=0, le=1)
    alpha_ramp_epochs: float = Field(default=1.0, ge=0)
    mask_rate: float = Field(default=0.15, gt=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    answer_list: PositiveInt = 3128
    false_texts: PositiveInt = 15
    prompt: str = ""
    max_steps: PositiveInt | None = None

    def steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of a run that names none."""
        steps = self.epochs * steps_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def rate(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """The learning rate of optimizer step `step`, 0 .. `steps` - 1."""
        warmup = min(self.warmup_steps or round(self.warmup_share * steps), steps)
        if step < warmup:
            return self.warmup_rate + (self.learning_rate - self.warmup_rate) * step / warmup
        if self.decay == "exponential":
            return max(self.final_rate, self.learning_rate * self.decay_rate ** (step // steps_per_epoch))
        after, held = max(1, steps - warmup), self.hold_share * max(1, steps - warmup)
        left = max(0.0, (step - warmup - held) / (after - held))
        share = 1 - left if self.decay == "linear" else (1 + math.cos(math.pi * left)) / 2
        return self.final_rate + (self.learning_rate - self.final_rate) * share

    def alpha_at(self, epochs_done: float) -> float:
        """The weight of momentum distillation after so many epochs."""
        return (
            self.alpha if self.alpha_ramp_epochs == 0 else self.alpha * min(1.0, epochs_done / self.alpha_ramp_epochs)
        )


PRETRAIN = "pretrain"
# The built-in world's texts speak of places and colours, which crops, flips and RandAugment make untrue.
SCENES_UNTOUCHED: dict[str, Any] = {"crop": None, "flip": False, "randaugment": False}


def recipe_of(model: str, changes: dict[str, Any]) -> Recipe:
    """A host's recipe of pre-training with some numbers changed.

    HarnessError for a host nobody registered, a host without one, and impossible numbers.
    """
    known = _recipes(model)
    if PRETRAIN not in known:
        raise HarnessError(f"model {model}: has no recipe of pre-training; state one in RECIPES of its class")
    return validated(Recipe, known[PRETRAIN] | changes, f"recipe of {model}")


def finetune_recipe(model: str, task: str, changes: dict[str, Any]) -> Recipe:
    """A host's recipe for a task with some numbers changed.

    HarnessError for a host nobody registered, a host without a recipe for the task, and impossible numbers.
    """
    known = finetuned_tasks(model)
    if task not in known:
        raise HarnessError(f"model {model}: cannot be fine-tuned on {task!r}; there is a recipe for {', '.join(known)}")
    return validated(Recipe, _recipes(model)[task] | changes, f"recipe of {model} for {task}")


def on_data(model: str, stage: str, sources: tuple[str, ...], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is changed in a host's recipe of a stage, a task or "pretrain": for the built-in world that is trained on,
    where all sources are one, and then what is `given`. Epochs that are given are not cut short.
    """
    if not are_worlds(sources):
        return dict(given)
    preset, (world, *others) = split_name(model)[1], sources
    own = {} if others else host_class(model).RECIPES.get(f"{preset} in {world}", {}).get(stage, {})
    whole = {"max_steps": None} if "epochs" in given else {}
    return SCENES_UNTOUCHED | own | whole | dict(given)


def finetuned_tasks(model: str) -> tuple[str, ...]:
    """The tasks that a host has a recipe for; HarnessError for a host nobody registered."""
    return tuple(name for name in _recipes(model) if name != PRETRAIN)


def _recipes(model: str) -> dict[str, dict[str, Any]]:
    return host_class(model).RECIPES.get(split_name(model)[1], {})
