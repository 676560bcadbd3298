"""EViT's golden files."""

from __future__ import annotations

from math import ceil
from typing import Any

from harness.check.golden.file import patches_of


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """One rate for all blocks that drop, or a list: one each, or one a block of the tower, 1 where none is dropped."""
    blocks, rates = config["drop_layers"], config["keep_rate"]
    if not isinstance(rates, list):
        return {"blocks": blocks, "keep_rate": rates, "fuse": config["fuse"]}
    if len(rates) != len(blocks):
        rates = [rates[block] for block in blocks]
    current, shares = patches_of(config), []
    for rate in rates:
        count = ceil(rate * current)
        shares.append((count + 0.5) / patches_of(config))
        current = count + bool(config["fuse"])
    return {"blocks": blocks, "schedule": {"begin": blocks, "keep": shares}, "fuse": config["fuse"]}
