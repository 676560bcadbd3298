"""Top-K's golden files."""

from __future__ import annotations

from typing import Any

from harness.check.golden.file import staged_settings


def settings(config: dict[str, Any]) -> dict[str, Any]:
    return staged_settings(config, counts=False)
