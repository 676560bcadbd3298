"""Where and with what a record was measured."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from harness.run.cell import Cell

VERSIONS = ("vlm-token-harness", "torch", "timm", "transformers", "numpy")


def hardware(device: torch.device) -> str:
    """The GPU's name, or the machine's processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU"


def environment(cell: Cell, started: datetime, seconds: float) -> dict[str, Any]:
    """Where and with what a record was measured."""
    return {
        "commit": commit(),
        "versions": {name: _version(name) for name in VERSIONS},
        "python": platform.python_version(),
        "device": cell.hardware,
        "threads": torch.get_num_threads(),
        "dtype": cell.dtype,
        "seed": cell.seed,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def commit() -> str | None:
    """The commit of the checkout the program runs from, marked when it has changes; None outside a checkout."""
    folder = Path(__file__).resolve().parents[1]
    try:
        head = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
        )
        changed = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain", "--", ".", "../baselines"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if changed.stdout.strip() else "")
