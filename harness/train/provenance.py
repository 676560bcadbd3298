"""Where a training run took place, for its record."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

CPU = torch.device("cpu")
_LIBRARIES = ("torch", "timm", "transformers", "accelerate", "safetensors", "numpy")


def provenance(seed: int, device: torch.device = CPU) -> dict[str, Any]:
    """Seed, commit, library versions, machine, device and thread count of this process."""
    return {
        "seed": seed,
        "commit": _commit(),
        "python": platform.python_version(),
        "libraries": {name: metadata.version(name) for name in _LIBRARIES},
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }


def _commit() -> str:
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=here,
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except OSError:
        return "uncommitted"
    return done.stdout.strip() if done.returncode == 0 else "uncommitted"
