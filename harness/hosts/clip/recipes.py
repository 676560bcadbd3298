"""CLIP's recipes: those of ELIP's experiment with open_clip, and small ones for the tiny preset."""

from __future__ import annotations

from typing import Any

from harness.hosts.parts.recipes import TINY_FINETUNE, TINY_PRETRAIN, Recipes

_SHARED: dict[str, Any] = {
    "image_size": 224,
    "weight_decay": 0.1,
    "betas": (0.9, 0.98),
    "eps": 1e-6,
    "crop": (0.9, 1.0),
    "flip": False,
    "randaugment": False,
}
_PAPER: dict[str, dict[str, Any]] = {
    "pretrain": _SHARED | {"epochs": 32, "batch_size": 256, "learning_rate": 1e-3, "warmup_steps": 10000},
    "retrieval": _SHARED | {"epochs": 10, "batch_size": 128, "learning_rate": 1e-5, "warmup_share": 0.1, "alpha": 0.0},
}
RECIPES: Recipes = {
    "small": _PAPER,
    "base": _PAPER,
    "tiny": {"pretrain": TINY_PRETRAIN | {"batch_size": 128}, "retrieval": TINY_FINETUNE},
    "tiny in scenes-small": {
        "pretrain": {"max_steps": 500},
        # Its tower is half of what is compared, and not frozen as that of hosts whose fusion reads it.
        "retrieval": {"max_steps": 500, "multipliers": {"vision": 0.1}},
    },
}
