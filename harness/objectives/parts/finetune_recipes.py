"""Fine-tuning recipes: the papers' by host and task, and small ones for the tiny presets.

Numbers of the base presets are those of the released configs (ALBEF's Retrieval, VQA, VE, NLVR; BLIP's
retrieval_coco, vqa, nlvr, caption_coco; METER's task_finetune_*) as far as they are known here, from memory.
"""

from __future__ import annotations

from typing import Any

from harness.hosts.build import split_name
from harness.kit.errors import HarnessError
from harness.kit.settings import validated
from harness.objectives.parts.recipe import METER_FIVEFOLD, Recipe

_ALBEF: dict[str, Any] = {
    "image_size": 384,
    "batch_size": 32,
    "learning_rate": 2e-5,
    "warmup_rate": 1e-5,
    "final_rate": 1e-6,
    "weight_decay": 0.02,
    "crop": (0.5, 1.0),
}
_BLIP: dict[str, Any] = _ALBEF | {"warmup_rate": 0.0, "final_rate": 0.0, "weight_decay": 0.05, "alpha": 0.0}
_METER: dict[str, Any] = {
    "image_size": 384,
    "epochs": 10,
    "batch_size": 32,
    "accumulate": 16,
    "learning_rate": 5e-6,
    "warmup_share": 0.1,
    "decay": "linear",
    "weight_decay": 0.01,
    "betas": (0.9, 0.98),
    "alpha": 0.0,
    "crop": None,
    "flip": False,
}
_METER_HEADS = ("match_head", "mlm_transform", "mlm_decoder")
_METER_CROSS = tuple(name for name in METER_FIVEFOLD if name not in _METER_HEADS)


def _multipliers(cross: float, head: float, *heads: str) -> dict[str, float]:
    return dict.fromkeys(_METER_CROSS, cross) | dict.fromkeys(heads, head)


_CLIP: dict[str, Any] = {
    "image_size": 224,
    "epochs": 10,
    "batch_size": 128,
    "learning_rate": 1e-5,
    "warmup_share": 0.1,
    "weight_decay": 0.1,
    "betas": (0.9, 0.98),
    "eps": 1e-6,
    "alpha": 0.0,
    "crop": (0.9, 1.0),
    "flip": False,
    "randaugment": False,
}
_TINY: dict[str, Any] = {
    "image_size": 64,
    "epochs": 2,
    "batch_size": 64,
    "learning_rate": 4e-4,
    "warmup_steps": 50,
    "weight_decay": 0.02,
    "betas": (0.9, 0.98),
    "clip_norm": 1.0,
    "queue_size": 1024,
    "alpha": 0.0,
}
# The words of ALBEF's answers are not smoothed, METER's answers are classes.
_TINY_SHARP = _TINY | {"label_smoothing": 0.0}
# A recipe for every task that a host can do, and for no other.
FINETUNE_RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "albef-base": {
        "retrieval": _ALBEF | {"epochs": 5, "learning_rate": 1e-5, "queue_size": 65536},
        "vqa": _ALBEF | {"epochs": 8, "label_smoothing": 0.0},
        "entailment": _ALBEF | {"epochs": 5},
        "nlvr2": _ALBEF | {"epochs": 10, "batch_size": 16},
    },
    "blip-base": {
        "retrieval": _BLIP | {"epochs": 6, "learning_rate": 1e-5, "alpha": 0.4, "queue_size": 57600},
        "vqa": _BLIP | {"image_size": 480, "epochs": 10, "batch_size": 16},
        "nlvr2": _BLIP | {"epochs": 15, "batch_size": 16, "learning_rate": 3e-5},
        "captioning": _BLIP | {"epochs": 5, "learning_rate": 1e-5, "prompt": "a picture of "},
    },
    "meter-base": {
        "retrieval": _METER | {"multipliers": _multipliers(5, 5, "rank_head")},
        "vqa": _METER | {"image_size": 576, "multipliers": _multipliers(5, 50, "answer_head"), "label_smoothing": 0.0},
        "entailment": _METER
        | {"epochs": 5, "accumulate": 2, "learning_rate": 2e-6, "multipliers": _multipliers(5, 10, "entailment_head")},
        "nlvr2": _METER
        | {"image_size": 288, "accumulate": 8, "learning_rate": 1e-5, "multipliers": _multipliers(5, 10, "pair_head")},
    },
    "clip-small": {"retrieval": _CLIP},
    "clip-base": {"retrieval": _CLIP},
    "albef-tiny": dict.fromkeys(("retrieval", "entailment", "nlvr2"), _TINY) | {"vqa": _TINY_SHARP},
    "blip-tiny": dict.fromkeys(("retrieval", "vqa", "nlvr2", "captioning"), _TINY),
    "meter-tiny": dict.fromkeys(("retrieval", "entailment", "nlvr2"), _TINY) | {"vqa": _TINY_SHARP},
    "clip-tiny": {"retrieval": _TINY},
}


def finetune_recipe(model: str, task: str, changes: dict[str, Any]) -> Recipe:
    """The recipe of a host for a task with some numbers changed.

    HarnessError for a host nobody registered, a host without a recipe for the task, and impossible numbers.
    """
    split_name(model)
    known = FINETUNE_RECIPES.get(model, {})
    if task not in known:
        raise HarnessError(f"model {model}: cannot be fine-tuned on {task!r}; there is a recipe for {', '.join(known)}")
    found: Recipe = validated(Recipe, known[task] | changes, f"recipe of {model} for {task}")
    return found
