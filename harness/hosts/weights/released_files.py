"""Files of the released programs: .pth and .ckpt without arbitrary pickle, and safetensors of other programs.

Lightning checkpoints carry the names of a few classes beside their tensors. Those are mapped, by name, to inert
stand-ins; every other class is refused by torch itself.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from harness.hosts.weights.facts import check_sizes
from harness.kit.errors import HarnessError
from harness.kit.files import file_digest
from harness.kit.reading import read_json, why_no_file

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")
# Of files that say in which other files of their folder the tensors lie, as transformers saves large models.
INDEX_SUFFIX = ".index.json"
SHARD = re.compile(r"(.+)-\d+-of-(\d+)(\.\w+)")
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
# Where checkpoints keep a model's tensors; an average of them (EMA) is taken where there is nothing else.
CONTAINERS = (
    "model",
    "state_dict",
    "module",
    "model_state_dict",
)
AVERAGES = ("model_ema", "state_dict_ema", "ema_state_dict", "ema")
# What DistributedDataParallel, torch.compile, Lightning and averages put before every name.
WRAPPERS = ("module.", "_orig_mod.", "model.", "ema_model.", "averaged_model.")


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

    def __new__(cls, *items: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]  # see above: another class
        return OrderedDict(*items)


class InertList:
    """Stands for a subclass of list, for the same reason."""

    def __new__(cls, *items: Any) -> list[Any]:  # type: ignore[misc]  # as above
        return list(*items)


STAND_INS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (Inert, INERT_CLASSES),
    (InertDict, INERT_DICTS),
    (InertList, INERT_LISTS),
)


def is_released(path: Path) -> bool:
    """Whether a file is a released program's: torch's format, or safetensors that do not state a host's sizes."""
    if path.suffix in TORCH_SUFFIXES or path.name.endswith(INDEX_SUFFIX):
        return True
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            # Every host of ours has its tower's tensors below this name.
            ours = "config" in (file.metadata() or {}) or any(name.startswith("vision.") for name in list(file.keys()))
            return not ours
    except (safetensors.SafetensorError, OSError, ValueError):
        return False  # read_weights says what is wrong with it


def read_released(path: Path) -> dict[str, Tensor]:
    """The tensors of a released file, or of all files of an index, by their names there without WRAPPERS.

    Raises HarnessError for a file that is missing, damaged, holds no tensors, or names a class that is not allowed.
    """
    if path.name.endswith(INDEX_SUFFIX):
        return unwrapped({name: tensor for shard in shards_of(path) for name, tensor in _tensors_in(shard).items()})
    shard = SHARD.fullmatch(path.name)
    if shard is not None and int(shard[2]) > 1:
        index = f"{shard[1]}{shard[3]}{INDEX_SUFFIX}"
        raise HarnessError(f"weights {path}: one of {int(shard[2])} files; name their folder, or its {index}")
    return unwrapped(_tensors_in(path))


def shards_of(index: Path) -> list[Path]:
    """The files that an index names, in its order; HarnessError where it is none, or a file is not beside it."""
    stated = read_json(index)
    places = stated.get("weight_map") if isinstance(stated, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise HarnessError(f"weights {index}: no index of weights, it has no weight_map; save or fetch it again")
    names = list(dict.fromkeys(places.values()))
    for name in names:
        if Path(name).name != name:
            raise HarnessError(f"weights {index}: names {name!r}, which is not beside it; save or fetch it again")
        if not (index.parent / name).is_file():
            raise HarnessError(f"weights {index}: {name} is not beside it; fetch all {len(names)} files")
    return [index.parent / name for name in names]


def content_digest(path: Path) -> str:
    """First 16 hex digits of the sha256 of a file of weights, or of all that an index names."""
    if not path.name.endswith(INDEX_SUFFIX):
        return file_digest(path)
    parts = "".join(file_digest(one) for one in (path, *shards_of(path)))
    return hashlib.sha256(parts.encode()).hexdigest()[:16]


def config_within(path: Path) -> dict[str, Any]:
    """The settings that a checkpoint holds beside its tensors, as ALBEF, BLIP and Lightning save them; often none.

    HarnessError for a file that cannot be read.
    """
    if path.suffix not in TORCH_SUFFIXES:
        return {}
    content = _content(path)
    for key in ("config", "hyper_parameters"):
        stated = content.get(key) if isinstance(content, dict) else None
        if isinstance(stated, dict):
            check_sizes(stated, f"weights {path}")
            return {str(name): value for name, value in stated.items()}
    return {}


def passed_over(path: Path) -> tuple[str, ...]:
    """Where a checkpoint holds tensors beside those that are read: its `model_ema` beside its `model`; often nowhere.

    HarnessError for a file that cannot be read.
    """
    content = _content(path) if path.suffix in TORCH_SUFFIXES else None
    if not isinstance(content, dict):
        return ()
    return tuple(key for key in _places_in(content)[1:] if _named_tensors(content[key]))


def _places_in(content: Any) -> list[str]:
    """Where in a checkpoint tensors may be, those that are read first; "" for the checkpoint itself."""
    if not isinstance(content, dict):
        return []
    models, averages = ([key for key in keys if isinstance(content.get(key), dict)] for keys in (CONTAINERS, AVERAGES))
    return [*models, *([""] if not models and _named_tensors(content) else []), *averages]


def _named_tensors(held: Any) -> dict[str, Tensor]:
    found = held.items() if isinstance(held, dict) else ()
    return {name: value for name, value in found if isinstance(name, str) and isinstance(value, Tensor)}


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without what wrappers put before every name; a count of updates beside them goes with its wrapper."""
    for wrapper in WRAPPERS:
        wrapped = {name.removeprefix(wrapper): value for name, value in tensors.items() if name.startswith(wrapper)}
        if wrapped and set(tensors) - {f"{wrapper}{name}" for name in wrapped} <= {"n_averaged"}:
            return unwrapped(wrapped)
    return tensors


def _content(path: Path) -> Any:
    if path.is_dir():
        raise HarnessError(f"weights {path}: a folder, expected a file; name the file of weights in it")
    if not path.is_file():
        raise HarnessError(f"weights {path}: {why_no_file(path)}; name a file of weights with --weights")
    try:
        return load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except pickle.UnpicklingError as error:
        raise HarnessError(f"weights {path}: {_refusal(str(error))}") from error
    except (OSError, RuntimeError, EOFError, ValueError, safetensors.SafetensorError, *_DAMAGED) as error:
        raise HarnessError(f"weights {path}: {_refusal(str(error) or type(error).__name__)}") from error


def _tensors_in(path: Path) -> dict[str, Tensor]:
    content = _content(path)
    places = _places_in(content)
    if places and places[0]:
        content = content[places[0]]
    tensors = _named_tensors(content)
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        has = f"; it has {keys}" if keys else ""
        raise HarnessError(f"weights {path}: holds no tensors by name{has}; name a file with a model's weights")
    return tensors


# What torch's reader of pickles lets out on bytes that are no pickle or the begin of one.
_DAMAGED = (LookupError, TypeError, AttributeError, AssertionError)


def _unpickled(path: Path) -> Any:
    allowed: list[Any] = [(stand_in, name) for stand_in, names in STAND_INS for name in names]
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on formats; what cannot be read raises
        # Mapped, so that asking for the settings of a large file reads no tensor; the old format cannot be.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))


def _refusal(reason: str) -> str:
    """One line from torch's long refusal: the class it names, or what is wrong with the file."""
    if "TorchScript" in reason:
        return "a TorchScript program, which is not loaded for safety; name a file of its weights alone"
    named = re.search(r"GLOBAL ([\w.]+)", reason)
    if named:
        return f"names the class {named[1]}, which is not loaded for safety; save its state_dict alone"
    return f"not a whole checkpoint ({reason.splitlines()[0]}); fetch it again"
