"""EViT's golden files."""

from __future__ import annotations

from typing import Any


def settings(config: dict[str, Any]) -> dict[str, Any]:
    return {"blocks": config["drop_layers"], "keep_rate": config["keep_rate"], "fuse": config["fuse"]}
