"""K-medoids's golden files."""

from __future__ import annotations

from typing import Any

from harness.check.golden.file import Golden, staged_settings
from harness.check.golden.vit import check_vit


def settings(config: dict[str, Any]) -> dict[str, Any]:
    return {
        **staged_settings(config),
        "iterations": config["cluster_iters"],
        "equal_weight": config["equal_weight"],
    }


def check(golden: Golden) -> dict[str, float]:
    """The first medoid of each stage is an input, where tokens weigh the same."""
    first = {int(stage): index for stage, index in golden.part("input.first_center").items()}
    return check_vit(golden, settings(golden.config), first_center=first)
