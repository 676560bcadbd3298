"""PiToMe's golden files."""

from __future__ import annotations

from typing import Any


def settings(config: dict[str, Any]) -> dict[str, Any]:
    return {"variant": config["variant"], "ratio": config["ratio"], "margins": config.get("margins")}
