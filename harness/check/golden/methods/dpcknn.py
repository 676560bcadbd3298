"""DPC-KNN's golden files."""

from __future__ import annotations

from typing import Any

from harness.check.golden.file import Golden, staged_settings
from harness.check.golden.vit import check_vit


def settings(config: dict[str, Any]) -> dict[str, Any]:
    return {
        **staged_settings(config),
        "neighbours": config["k_neighbors"],
        "equal_weight": config["equal_weight"],
    }


def parameter(name: str) -> str | None:
    return name if name.startswith("cluster_layers.") else None


def check(golden: Golden) -> dict[str, float]:
    """The random part of each stage's densities is an input."""
    drawn = {int(stage): noise for stage, noise in golden.part("input.density_noise").items()}
    return check_vit(golden, settings(golden.config), parameter, density_noise=drawn)
