"""ELIP's golden files."""

from __future__ import annotations

from typing import Any

from harness.check.golden.file import elip_settings


def settings(config: dict[str, Any]) -> dict[str, Any]:
    return elip_settings(config)
