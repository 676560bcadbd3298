"""Where and with what a result was made: commit, versions, machine and device, for records of cells and of training."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

CPU = torch.device("cpu")


def provenance(seed: int, device: torch.device = CPU) -> dict[str, Any]:
    """What a record of this process's training says of where it ran."""
    return {
        "seed": seed,
        "commit": commit(),
        "python": platform.python_version(),
        "libraries": versions("torch", "timm", "transformers", "accelerate", "safetensors", "numpy"),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def environment(device: str, dtype: str, seed: int, started: datetime, seconds: float) -> dict[str, Any]:
    """What a cell's record says of where and with what it was measured; `device`: the hardware's name."""
    return {
        "commit": commit(),
        "versions": versions("vlm-token-harness", "torch", "timm", "transformers", "numpy"),
        "python": platform.python_version(),
        "device": device,
        "threads": torch.get_num_threads(),
        "dtype": dtype,
        "seed": seed,
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
    }


def hardware(device: torch.device) -> str:
    """The GPU's name, or the machine's processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()} CPU"


def versions(*names: str) -> dict[str, str | None]:
    """Versions of installed packages; None for one that is not."""
    return {name: _version(name) for name in names}


@cache
def commit() -> str | None:
    """The commit of the checkout the program runs from, marked when it has changes; None outside a checkout."""
    folder = Path(__file__).resolve().parents[1]
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    changed = _git(folder, "status", "--porcelain", "--", ".", "../baselines")
    if head is None or changed is None:
        return None
    return head + ("+changes" if changed else "")


@cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
