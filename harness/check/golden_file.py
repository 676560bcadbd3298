"""A golden file: float64 reference vectors that were computed with the authors' released programs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.errors import HarnessError


@dataclass(frozen=True)
class Golden:
    """One file: its JSON config and its tensors, named weight.*, input.*, output.*, grad.*."""

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Tensors whose names begin with `prefix.`, without it."""
        return {name[len(prefix) + 1 :]: value for name, value in self.tensors.items() if name.startswith(prefix + ".")}


def read_golden(path: Path) -> Golden:
    """Read a golden file; HarnessError when it is missing, damaged or has no config."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - a safe_open handle is no mapping
        return Golden(path, json.loads(metadata["config"]), tensors)
    except FileNotFoundError as error:
        raise HarnessError(f"{path}: no such golden file") from error
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise HarnessError(
            f"{path}: not a golden file (safetensors with a JSON config in its metadata): {error}"
        ) from error


def elip_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of ELIP's config from a golden file's words for them."""
    schedule = {
        "begin": config["begin_layers"],
        "keep": config["keep_ratios"],
        "lookahead": config["lookahead_layers"],
    }
    return {
        "schedule": schedule,
        "vision_weight": config["vision_weight"],
        "keep_tokens": config.get("keep_tokens"),
    }


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference; infinite when shapes differ or a value is not finite."""
    if ours.shape != theirs.shape or not bool(ours.isfinite().all()):
        return float("inf")
    return float((ours.detach() - theirs.to(ours.dtype)).abs().max())
