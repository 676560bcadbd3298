"""A host model ready to evaluate, with its tokenizer, on a device."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from harness.errors import HarnessError
from harness.models.build import skeleton, split_name
from harness.models.checkpoints import load_model, weights_file
from harness.models.host import HostModel
from harness.models.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Host:
    """A host model ready to evaluate: its module, tokenizer, closed answer list, and where and how it runs."""

    name: str
    model: HostModel
    tokenizer: Tokenizer
    answers: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype


def pick_device(name: str) -> torch.device:
    """The device of --device: auto takes CUDA where there is one; CUDA where there is none is a HarnessError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise HarnessError(f"device {name!r}: expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise HarnessError(f"device {name!r}: no such CUDA device here; use --device cpu")
    if device.type not in {"cpu", "cuda"}:
        raise HarnessError(f"device {name!r}: expected auto, cpu, cuda or cuda:N")
    return device


def pick_dtype(name: str) -> torch.dtype:
    """The dtype of --dtype; HarnessError for an unknown one."""
    if name not in DTYPES:
        raise HarnessError(f"dtype {name!r}: expected one of {', '.join(DTYPES)}")
    return DTYPES[name]


def load_host(name: str, weights: Path | None, device: str, dtype: str) -> Host:
    """The trained host on its device; raises HarnessError for unknown names and unusable weights."""
    split_name(name)
    place, kind = pick_device(device), pick_dtype(dtype)
    loaded = load_model(name, weights)
    model = loaded.model.to(place, kind).eval()
    return Host(name, model, loaded.tokenizer, loaded.answers, place, kind)


__all__ = [
    "DTYPES",
    "Host",
    "load_host",
    "pick_device",
    "pick_dtype",
    "skeleton",
    "split_name",
    "weights_file",
]
