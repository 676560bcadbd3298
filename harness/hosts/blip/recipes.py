"""BLIP's recipes: the paper's, and small ones for the tiny preset.

Fine-tuning's numbers are those of the released configs (retrieval_coco, vqa, nlvr, caption_coco) as far as they are
known here, from memory.
"""

from __future__ import annotations

from typing import Any

from harness.hosts.parts.recipes import TINY_FINETUNE, TINY_PRETRAIN, Recipes, small_world

_FINETUNE: dict[str, Any] = {
    "image_size": 384,
    "batch_size": 32,
    "learning_rate": 2e-5,
    "warmup_rate": 0.0,
    "final_rate": 0.0,
    "weight_decay": 0.05,
    "crop": (0.5, 1.0),
    "alpha": 0.0,
}
RECIPES: Recipes = {
    "base": {
        # The released pretrain.yaml with ELIP's 15 epochs and batch of 42.
        "pretrain": {
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
        "retrieval": _FINETUNE | {"epochs": 6, "learning_rate": 1e-5, "alpha": 0.4, "queue_size": 57600},
        "vqa": _FINETUNE | {"image_size": 480, "epochs": 10, "batch_size": 16},
        "nlvr2": _FINETUNE | {"epochs": 15, "batch_size": 16, "learning_rate": 3e-5},
        "captioning": _FINETUNE | {"epochs": 5, "learning_rate": 1e-5, "prompt": "a picture of "},
    },
    "tiny": {
        "pretrain": TINY_PRETRAIN,
        **dict.fromkeys(("retrieval", "vqa", "nlvr2", "captioning"), TINY_FINETUNE),
    },
    "tiny in scenes-small": small_world(
        ["encoder.*.crossattention"], ["retrieval", "vqa", "nlvr2", "captioning"], temperature=0.125
    ),
}
