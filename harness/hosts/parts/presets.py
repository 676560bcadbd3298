"""What the tiny presets of all hosts share: a ViT and texts of the size of the built-in world."""

from __future__ import annotations

from typing import Any

# image_size and patch_size in pixels, text_length in tokens; mean and std of the three colours, in 0..1.
TINY: dict[str, Any] = {
    "image_size": 64,
    "patch_size": 8,
    "width": 96,
    "heads": 3,
    "text_length": 48,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
}
