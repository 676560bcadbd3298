"""The course of a finished training's losses, short enough for a record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.train.log import LOG_FILE

POINTS = 20


def curve_of(folder: Path, steps: int) -> dict[str, Any] | None:
    """Of a run's log: `steps`, the last entry's of each of at most POINTS equal parts, and by name `losses`, means of
    a part each. Parts without an entry are left out; None where the log is gone.
    """
    log = folder / LOG_FILE
    if not log.is_file():
        return None
    parts: dict[int, list[dict[str, Any]]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if "losses" in entry:
            parts.setdefault((entry["step"] - 1) * POINTS // steps, []).append(entry)
    found = list(parts.values())
    names = found[0][0]["losses"] if found else ()
    losses = {name: [round(_mean(part, name), 5) for part in found] for name in names}
    return {"steps": [part[-1]["step"] for part in found], "losses": losses}


def _mean(entries: Sequence[dict[str, Any]], name: str) -> float:
    return sum(float(entry["losses"][name]) for entry in entries) / len(entries)
