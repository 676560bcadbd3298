"""The most memory that was taken since a reset: a GPU's allocator's, on a CPU the process's resident set (Linux)."""

from __future__ import annotations

import re
from pathlib import Path

import torch

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5): sets the peak of the resident set to what it is now


def reset_peak(device: torch.device) -> None:
    """Begin to watch; without /proc nothing is watched on a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text(_RESET_PEAK)


def peak_mib(device: torch.device) -> float | None:
    """MiB since the reset; None on a CPU without /proc."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if not _STATUS.exists():
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else None
