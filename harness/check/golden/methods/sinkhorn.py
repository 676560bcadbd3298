"""Sinkhorn's golden files."""

from __future__ import annotations

from typing import Any

from harness.check.golden.file import staged_settings


def settings(config: dict[str, Any]) -> dict[str, Any]:
    return {**staged_settings(config), "eps": config["sinkhorn_eps"], "iterations": config["cluster_iters"]}


def parameter(name: str) -> str | None:
    return name if name.startswith("cluster_layers.") else None
