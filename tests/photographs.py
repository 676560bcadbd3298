"""Pictures that are like photographs in their numbers: smooth shades with little grain."""

from __future__ import annotations

import numpy as np
from PIL import Image


def photograph_like(seed: int, side: int = 64) -> Image.Image:
    """Large soft shapes of a colour each."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(40, 220, (5, 5, 3), dtype=np.uint8))
    return coarse.resize((side, side), Image.Resampling.BICUBIC)
