"""ToMe's golden files."""

from __future__ import annotations

from typing import Any

from harness.check.golden.file import merges_per_block


def settings(config: dict[str, Any]) -> dict[str, Any]:
    return {**merges_per_block(config), "proportional_attention": config["proportional_attention"]}
