"""ToMe's golden files."""

from __future__ import annotations

from typing import Any


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """`r` is a number, a list of one a block, or a pair: a number and an inflection (negative, or with a fraction)."""
    shared = {"proportional_attention": config["proportional_attention"]}
    r = config.get("r_per_layer", config.get("r"))
    if isinstance(r, list) and len(r) == 2 and "r_per_layer" not in config and (r[1] < 0 or isinstance(r[1], float)):
        return {"r": r[0], "inflect": r[1], **shared}
    return {"r_per_block" if isinstance(r, list) else "r": r, **shared}
