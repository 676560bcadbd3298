"""What tests of masked objectives share: a small host, its pairs, and an objective with a method."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.cost.host import NO_WORDS
from harness.hosts.build import build_host
from harness.objectives import choose
from harness.objectives.parts.objective import Objective, Pairs
from harness.objectives.parts.recipe import recipe_of
from harness.reduction.budget import make_reducer

SIZES: dict[str, dict[str, Any]] = {
    "clip": {"depth": 4, "width": 24, "heads": 2, "text_layers": 1, "text_width": 24, "text_heads": 2, "projection": 8},
    "albef": {"depth": 4, "width": 24, "heads": 2, "text_layers": 1, "fusion_layers": 1, "projection": 8},
    "meter": {"depth": 4, "width": 24, "heads": 2, "text_layers": 1, "fusion_layers": 1},
}
DECODER = {"decoder_width": 24, "decoder_heads": 2, "decoder_depth": 1}
SMALL: dict[str, dict[str, Any]] = {
    "mae": DECODER,
    "moca": DECODER | {"words": 12, "new_words": 4, "early": 1},
    "aclip": {"hidden": 16, "out": 8},
}


def made(
    objective: str,
    settings: dict[str, Any] | None = None,
    family: str = "clip",
    method: str = "dense",
    ratio: float | None = None,
    sizes: dict[str, Any] | None = None,
    method_settings: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
) -> Objective[Any]:
    """An objective of a small host with 8 x 8 patches, in float64 and in training."""
    torch.manual_seed(0)
    host = build_host(f"{family}-tiny", **SIZES[family] | (sizes or {}))
    reducer = make_reducer(method, host.shape, ratio=ratio, settings=method_settings)
    choice = choose(f"{family}-tiny", objective, {objective: SMALL.get(objective, {}) | (settings or {})})
    numbers = recipe_of(f"{family}-tiny", {"batch_size": 4} | (recipe or {}))
    return choice.make(host, reducer, NO_WORDS, numbers).double().train()


def images(count: int = 4, size: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, dtype=torch.float64, generator=generator)


def pairs(views: int = 1) -> Pairs:
    """Four pairs, with two views each for moca."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(10, 100, (4, 6), generator=generator)
    pixels = images() if views == 1 else images(4 * views).unflatten(0, (4, views))
    return Pairs(pixels, ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(4))
