"""Which records belong to which label of a study, so that tables and figures need no planning. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.kit.errors import HarnessError
from harness.kit.files import write_atomically
from harness.kit.reading import read_json
from harness.kit.registry import studies

INDEX_FILE = "study.json"


def save_index(folder: Path, name: str, draw: str, dense: Sequence[str], index: Sequence[dict[str, Any]]) -> None:
    """Write a study's index: how it is drawn, the keys of dense, and those of each label."""
    content = json.dumps({"study": name, "draw": draw, "dense": list(dense), "cells": list(index)}, indent=1) + "\n"
    write_atomically(folder / INDEX_FILE, content.encode())


def read_index(folder: Path, name: str) -> dict[str, Any]:
    """The index that `ablate` wrote; HarnessError when the study was not run here."""
    path = folder / INDEX_FILE
    if not path.exists():
        known = name in studies.entries()
        how = f"run: python -m harness ablate {name}" if known else "give its file to `ablate` first"
        raise HarnessError(f"{path}: study {name} has not been run here; {how}")
    index = read_json(path)
    if not _is_index(index):
        raise HarnessError(f"{path}: not a study's index; run the study again")
    return dict(index)


def _is_index(index: Any) -> bool:
    """Whether a value is what `save_index` writes."""
    if not isinstance(index, dict) or index.get("draw") not in ("tradeoff", "schedule"):
        return False
    cells = index.get("cells")
    if not _are_keys(index.get("dense")) or not isinstance(cells, list):
        return False
    return all(isinstance(cell, dict) and _are_keys(cell.get("keys")) and _is_labelled(cell) for cell in cells)


def _are_keys(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(key, str) for key in value)


def _is_labelled(cell: Mapping[str, Any]) -> bool:
    texts = [cell.get("method"), *(cell[name] for name in ("label", "placement") if name in cell)]
    return all(isinstance(text, str) for text in texts) and isinstance(cell.get("stages", 0), int)
