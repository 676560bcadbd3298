"""Which records belong to which label of a study, so that tables and figures need no planning. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.kit.errors import HarnessError
from harness.kit.files import write_atomically

INDEX_FILE = "study.json"


def save_index(folder: Path, name: str, draw: str, dense: Sequence[str], index: Sequence[dict[str, Any]]) -> None:
    """Write a study's index: how it is drawn, the keys of dense, and those of each label."""
    content = json.dumps({"study": name, "draw": draw, "dense": list(dense), "cells": list(index)}, indent=1) + "\n"
    write_atomically(folder / INDEX_FILE, content.encode())


def read_index(folder: Path, name: str) -> dict[str, Any]:
    """The index that `ablate` wrote; HarnessError when the study was not run here."""
    path = folder / INDEX_FILE
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HarnessError(
            f"{path}: study {name} has not been run here; run: python -m harness ablate {name}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise HarnessError(f"{path}: not a study's index ({error}); run the study again") from error
    return index
