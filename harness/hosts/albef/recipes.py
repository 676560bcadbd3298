"""ALBEF's recipes: the paper's, and small ones for the tiny preset.

Fine-tuning's numbers are those of the released configs (Retrieval, VQA, VE, NLVR) as far as they are known here, from
memory.
"""

from __future__ import annotations

from typing import Any

from harness.hosts.parts.recipes import TINY_FINETUNE, TINY_PRETRAIN, TINY_SHARP, Recipes, small_world

_FINETUNE: dict[str, Any] = {
    "image_size": 384,
    "batch_size": 32,
    "learning_rate": 2e-5,
    "warmup_rate": 1e-5,
    "final_rate": 1e-6,
    "weight_decay": 0.02,
    "crop": (0.5, 1.0),
}
RECIPES: Recipes = {
    "base": {
        # The released Pretrain.yaml with ELIP's 20 epochs and batch of 40.
        "pretrain": {
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
        "retrieval": _FINETUNE | {"epochs": 5, "learning_rate": 1e-5, "queue_size": 65536},
        "vqa": _FINETUNE | {"epochs": 8, "label_smoothing": 0.0},
        "entailment": _FINETUNE | {"epochs": 5},
        "nlvr2": _FINETUNE | {"epochs": 10, "batch_size": 16},
    },
    "tiny": {
        "pretrain": TINY_PRETRAIN,
        **dict.fromkeys(("retrieval", "entailment", "nlvr2"), TINY_FINETUNE),
        "vqa": TINY_SHARP,
    },
    "tiny in scenes-small": small_world(
        ["fusion.*.crossattention"], ["retrieval", "vqa", "entailment", "nlvr2"], temperature=0.125
    ),
}
