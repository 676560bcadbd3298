"""The course of a finished training's losses, short enough for a record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.train.log import LOG_FILE

POINTS = 20


def curve_of(folder: Path, steps: int) -> dict[str, Any] | None:
    """Of a run's log: `steps`, the last entry's of each of at most POINTS equal parts, and by name `losses`, means of
    a part each, null where a loss was not trained, as matching before it begins. Parts without an entry are left out;
    None where the log is gone.
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
    names = dict.fromkeys(name for part in found for entry in part for name in entry["losses"])
    losses = {name: [_mean(part, name) for part in found] for name in names}
    return {"steps": [part[-1]["step"] for part in found], "losses": losses}


def _mean(entries: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [float(entry["losses"][name]) for entry in entries if name in entry["losses"]]
    return round(fmean(values), 5) if values else None
