"""Recipes: every number a training run depends on beside its data, with the papers' pre-training as presets."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from harness.kit.errors import HarnessError


class Recipe(BaseModel):
    """How a host is trained. Batch sizes are per process and micro-batch; steps are optimizer steps.

    learning_rate rises linearly from warmup_rate over warmup_steps (or warmup_share of all steps), then falls to
    final_rate: `cosine` and `linear` over what is left, `exponential` by decay_rate each epoch, as BLIP's. multipliers:
    factor of the rate by the beginning of a parameter's name, the longest one counting; what has factor 0 is frozen:
    no gradient, no decay. alpha: weight of momentum distillation, reached linearly over alpha_ramp_epochs. crop:
    smallest and largest share of the image that a crop keeps; none: the whole image. For fine-tuning: answer_list, how
    many of the training set's answers a closed list made of them holds; false_texts, wrong texts that METER's
    retrieval ranks beside the right one; prompt, what every caption begins with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: PositiveInt
    epochs: PositiveInt
    batch_size: PositiveInt
    accumulate: PositiveInt = 1
    learning_rate: float = Field(gt=0)
    final_rate: float = Field(default=0.0, ge=0)
    warmup_rate: float = Field(default=0.0, ge=0)
    warmup_steps: NonNegativeInt = 0
    warmup_share: float = Field(default=0.0, ge=0, lt=1)
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
    momentum: float = Field(default=0.995, ge=0, le=1)
    queue_size: PositiveInt = 65536
    alpha: float = Field(default=0.4, ge=0, le=1)
    alpha_ramp_epochs: float = Field(default=1.0, ge=0)
    mask_rate: float = Field(default=0.15, gt=0, lt=1)
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    answer_list: PositiveInt = 3128
    false_texts: PositiveInt = 15
    prompt: str = ""

    def rate(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """The learning rate of optimizer step `step`, 0 .. `steps` - 1."""
        warmup = min(self.warmup_steps or round(self.warmup_share * steps), steps)
        if step < warmup:
            return self.warmup_rate + (self.learning_rate - self.warmup_rate) * step / warmup
        if self.decay == "exponential":
            return max(self.final_rate, self.learning_rate * self.decay_rate ** (step // steps_per_epoch))
        left = (step - warmup) / max(1, steps - warmup)
        share = 1 - left if self.decay == "linear" else (1 + math.cos(math.pi * left)) / 2
        return self.final_rate + (self.learning_rate - self.final_rate) * share

    def alpha_at(self, epochs_done: float) -> float:
        """The weight of momentum distillation after so many epochs."""
        return (
            self.alpha if self.alpha_ramp_epochs == 0 else self.alpha * min(1.0, epochs_done / self.alpha_ramp_epochs)
        )


_TINY: dict[str, Any] = {
    "image_size": 64,
    "epochs": 10,
    "batch_size": 64,
    "learning_rate": 8e-4,
    "warmup_steps": 100,
    "weight_decay": 0.02,
    "betas": (0.9, 0.98),
    "clip_norm": 1.0,
    "queue_size": 1024,
}
# METER's lr_mult_cross_modal and lr_mult_head, by our names of what they multiply.
METER_FIVEFOLD = (
    *("text_transform", "image_transform", "text_fusion", "image_fusion", "text_pooler", "image_pooler"),
    *("match_head", "mlm_transform", "mlm_decoder"),
)
RECIPES: dict[str, dict[str, Any]] = {
    # ALBEF's released Pretrain.yaml with ELIP's 20 epochs and batch of 40.
    "albef-base": {
        "image_size": 256,
        "epochs": 20,
        "batch_size": 40,
        "learning_rate": 1e-4,
        "warmup_rate": 1e-5,
        "final_rate": 1e-5,
        "warmup_steps": 2000,
        "weight_decay": 0.02,
        "queue_size": 65536,
    },
    # BLIP's released pretrain.yaml with ELIP's 15 epochs and batch of 42.
    "blip-base": {
        "image_size": 224,
        "epochs": 15,
        "batch_size": 42,
        "learning_rate": 3e-4,
        "warmup_rate": 1e-6,
        "final_rate": 1e-6,
        "warmup_steps": 3000,
        "decay": "exponential",
        "decay_rate": 0.9,
        "weight_decay": 0.05,
        "queue_size": 57600,
        "alpha_ramp_epochs": 2.0,
    },
    # METER's task_mlm_itm_clip_bert: 100,000 steps of 4,096 pairs; epochs are of the 4 million images.
    "meter-base": {
        "image_size": 288,
        "epochs": 100,
        "batch_size": 32,
        "learning_rate": 1e-5,
        "warmup_share": 0.1,
        "decay": "linear",
        "weight_decay": 0.01,
        "betas": (0.9, 0.98),
        "multipliers": dict.fromkeys(METER_FIVEFOLD, 5.0),
    },
    "clip-small": {
        "image_size": 224,
        "epochs": 32,
        "batch_size": 256,
        "learning_rate": 1e-3,
        "warmup_steps": 10000,
        "weight_decay": 0.1,
        "betas": (0.9, 0.98),
        "eps": 1e-6,
        "crop": (0.9, 1.0),
        "flip": False,
        "randaugment": False,
    },
    "albef-tiny": _TINY,
    "blip-tiny": _TINY,
    "meter-tiny": _TINY,
    "clip-tiny": _TINY | {"batch_size": 128},
}
RECIPES["clip-base"] = RECIPES["clip-small"]


def recipe_of(model: str, changes: dict[str, Any]) -> Recipe:
    """A model's recipe with some numbers changed; HarnessError for a model without one and for impossible numbers."""
    from harness.kit.settings import validated

    if model not in RECIPES:
        raise HarnessError(f"model {model}: has no pre-training recipe; there is one for {', '.join(RECIPES)}")
    found: Recipe = validated(Recipe, RECIPES[model] | changes, f"recipe of {model}")
    return found
