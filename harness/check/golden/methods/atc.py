"""ATC's golden files."""

from __future__ import annotations

from typing import Any

from harness.check.golden.file import merges_per_block, patches_of, staged_settings


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """`variant` off-the-shelf counts r per block, the other one the clusters of each stage, at most one a patch."""
    shared = {"linkage": config["linkage"], "proportional_attention": config["proportional_attn"]}
    if config.get("variant") == "off-the-shelf":
        return {"variant": "off_the_shelf", **merges_per_block(config), "r_counts_class_token": True, **shared}
    staged = staged_settings(config, "reduction_ratio")
    if "keep_tokens" in staged:
        staged["keep_tokens"] = [min(count, patches_of(config)) for count in staged["keep_tokens"]]
    return {**staged, **shared}
