"""Files of the released programs: .pth and .ckpt without arbitrary pickle, and safetensors of other programs.

Lightning checkpoints carry the names of a few classes beside their tensors. Those are mapped, by name, to inert
stand-ins; every other class is refused by torch itself.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from harness.kit.errors import HarnessError

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")
# What METER's Lightning checkpoints name: callbacks, their state keys and argparse namespaces.
INERT_CLASSES = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "argparse.Namespace",
)
INERT_DICTS = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "pytorch_lightning.core.saving.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "sacred.config.custom_containers.ReadOnlyDict",
)
INERT_LISTS = ("sacred.config.custom_containers.ReadOnlyList",)
CONTAINERS = ("model", "state_dict", "module")


class Inert:
    """Stands for a class of a checkpoint that nothing here needs: accepts any state and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class InertDict:
    """Stands for a subclass of dict: torch lets items be set on its own kinds of dict only, so it makes one."""

    def __new__(cls, *items: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict(*items)


class InertList:
    """Stands for a subclass of list, for the same reason."""

    def __new__(cls, *items: Any) -> list[Any]:  # type: ignore[misc]
        return list(*items)


STAND_INS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (Inert, INERT_CLASSES),
    (InertDict, INERT_DICTS),
    (InertList, INERT_LISTS),
)


def is_released(path: Path) -> bool:
    """Whether a file is a released program's: torch's format, or safetensors that do not state a host's sizes."""
    if path.suffix in TORCH_SUFFIXES:
        return True
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = set(file.keys())
            return "config" not in (file.metadata() or {}) and any(_foreign(name) for name in names)
    except (safetensors.SafetensorError, OSError, ValueError):
        return False  # read_weights says what is wrong with it


def read_released(path: Path) -> dict[str, Tensor]:
    """The tensors of a released file by their names there, "module." stripped.

    Raises HarnessError for a file that is missing, damaged, holds no tensors, or names a class that is not allowed.
    """
    if path.is_dir():
        raise HarnessError(f"weights {path}: a folder, expected a file; name the file of weights in it")
    if not path.is_file():
        raise HarnessError(f"weights {path}: no such file; name a file of weights with --weights")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except pickle.UnpicklingError as error:
        raise HarnessError(f"weights {path}: {_refusal(str(error))}") from error
    except (OSError, RuntimeError, EOFError, ValueError, safetensors.SafetensorError, *_DAMAGED) as error:
        raise HarnessError(f"weights {path}: {_refusal(str(error) or type(error).__name__)}") from error
    for key in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    held = content.items() if isinstance(content, dict) else ()
    tensors = {name: value for name, value in held if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise HarnessError(f"weights {path}: holds no tensors by name; name a file with a model's weights")
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


# What torch's reader of pickles lets out on bytes that are no pickle or the begin of one.
_DAMAGED = (LookupError, TypeError, AttributeError, AssertionError)


def _unpickled(path: Path) -> Any:
    allowed: list[Any] = [(stand_in, name) for stand_in, names in STAND_INS for name in names]
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on formats; what cannot be read raises
        return torch.load(path, map_location="cpu", weights_only=True)


def _refusal(reason: str) -> str:
    """One line from torch's long refusal: the class it names, or what is wrong with the file."""
    if "TorchScript" in reason:
        return "a TorchScript program, which is not loaded for safety; name a file of its weights alone"
    named = re.search(r"GLOBAL ([\w.]+)", reason)
    if named:
        return f"names the class {named[1]}, which is not loaded for safety; save its state_dict alone"
    return f"not a whole checkpoint ({reason.splitlines()[0]}); fetch it again"


def _foreign(name: str) -> bool:
    """A name as only other programs write them."""
    starts = ("visual", "vision_model.", "text_encoder.", "text_model.", "text_transformer.", "vit_model.", "module.")
    return name.startswith(starts)
