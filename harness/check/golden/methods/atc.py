"""ATC's golden files."""

from __future__ import annotations

from typing import Any

from harness.check.golden.file import merges_per_block, staged_settings


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """`variant` off-the-shelf counts r per block, the other one the clusters of each stage."""
    shared = {"linkage": config["linkage"], "proportional_attention": config["proportional_attn"]}
    if config.get("variant") == "off-the-shelf":
        return {"variant": "off_the_shelf", **merges_per_block(config), "r_counts_class_token": True, **shared}
    return {**staged_settings(config, "reduction_ratio"), **shared}
