"""What the recipes of the tiny presets share: numbers under which they learn the built-in world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# A host's recipes: preset -> "pretrain" or a task's name -> numbers of harness.objectives.parts.recipe.Recipe.
# "PRESET in WORLD" -> the same, what is changed in them where a built-in world is trained on.
Recipes = dict[str, dict[str, dict[str, Any]]]

TINY_PRETRAIN: dict[str, Any] = {
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
TINY_FINETUNE: dict[str, Any] = {
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
# The small world is learnt from its starts, and then asked about, within a quarter of an hour. Half of the words are
# hidden, and matching begins after two fifths of the steps: fusion first learns from hidden words which word is which
# object, and then which captions are false; trained from the beginning, matching delays both. Nothing is distilled: a
# twin that knows no more than its student delays that as well. The twin that the queue comes from follows faster, in
# fewer steps. Norms are not clipped: the temperature's gradient would rule them. A tower at the full rate changes
# sooner than what reads it follows (docs/world.md); in fine-tuning it is frozen, which halves a step's time as well.
SMALL_WORLD_PRETRAIN: dict[str, Any] = {
    "max_steps": 900,
    "momentum": 0.98,
    "alpha": 0.0,
    "mask_rate": 0.5,
    "clip_norm": None,
    "hold_share": 0.5,
    "matching_from": 0.4,
}
SMALL_WORLD_FINETUNE: dict[str, Any] = {"max_steps": 500, "multipliers": {"vision": 0.0}}
SMALL_WORLD_TASKS: dict[str, dict[str, Any]] = {
    # Pre-training has the same losses: 500 steps add less than two points to what 150 do.
    "retrieval": SMALL_WORLD_FINETUNE | {"max_steps": 150},
    # Where something is, is learnt last, and from questions alone.
    "vqa": SMALL_WORLD_FINETUNE | {"max_steps": 1500},
}


def small_world(fresh: Sequence[str], tasks: Sequence[str], **multipliers: float) -> dict[str, dict[str, Any]]:
    """What a host that fuses changes in its recipes in the small world; `fresh`: beginnings of the names of what starts
    as it is drawn, beside sides that have learned; `multipliers`: of other names."""
    rates = {**multipliers, **dict.fromkeys(("match_head", *fresh), 3.0), "vision": 0.2}
    return {
        "pretrain": SMALL_WORLD_PRETRAIN | {"multipliers": rates},
        **{task: SMALL_WORLD_TASKS.get(task, SMALL_WORLD_FINETUNE) for task in tasks},
    }


# The words of ALBEF's answers are not smoothed, METER's answers are classes.
TINY_SHARP = TINY_FINETUNE | {"label_smoothing": 0.0}
