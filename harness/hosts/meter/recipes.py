"""METER's recipes: the paper's, and small ones for the tiny preset.

Fine-tuning's numbers are those of the released task_finetune_* as far as they are known here, from memory.
"""

from __future__ import annotations

from typing import Any

from harness.hosts.parts.recipes import TINY_FINETUNE, TINY_PRETRAIN, TINY_SHARP, Recipes, small_world

# lr_mult_cross_modal and lr_mult_head of the released program, by our names of what they multiply.
_CROSS = (
    *("text_transform", "image_transform", "text_fusion", "image_fusion", "text_pooler", "image_pooler"),
    *("match_head", "mlm_transform", "mlm_decoder"),
)
_BETWEEN = _CROSS[:6]
_FINETUNE: dict[str, Any] = {
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


def _multipliers(cross: float, head: float, *heads: str) -> dict[str, float]:
    return dict.fromkeys(_BETWEEN, cross) | dict.fromkeys(heads, head)


RECIPES: Recipes = {
    "base": {
        # task_mlm_itm_clip_bert: 100,000 steps of 4,096 pairs; epochs are of the 4 million images.
        "pretrain": {
            "image_size": 288,
            "epochs": 100,
            "batch_size": 32,
            "learning_rate": 1e-5,
            "warmup_share": 0.1,
            "decay": "linear",
            "weight_decay": 0.01,
            "betas": (0.9, 0.98),
            "multipliers": dict.fromkeys(_CROSS, 5.0),
        },
        "retrieval": _FINETUNE | {"multipliers": _multipliers(5, 5, "rank_head")},
        "vqa": _FINETUNE
        | {"image_size": 576, "multipliers": _multipliers(5, 50, "answer_head"), "label_smoothing": 0.0},
        "entailment": _FINETUNE
        | {"epochs": 5, "accumulate": 2, "learning_rate": 2e-6, "multipliers": _multipliers(5, 10, "entailment_head")},
        "nlvr2": _FINETUNE
        | {"image_size": 288, "accumulate": 8, "learning_rate": 1e-5, "multipliers": _multipliers(5, 10, "pair_head")},
    },
    "tiny": {
        "pretrain": TINY_PRETRAIN,
        **dict.fromkeys(("retrieval", "entailment", "nlvr2"), TINY_FINETUNE),
        "vqa": TINY_SHARP,
    },
    "tiny in scenes-small": small_world(
        ["text_fusion.*.crossattention", "image_fusion.*.crossattention"], ["retrieval", "vqa", "entailment", "nlvr2"]
    ),
}
