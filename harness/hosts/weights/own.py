"""Our own files of weights: safetensors that state a host's name, sizes and digest, and the method trained with it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from harness.hosts.build import build_host, host_class, skeleton, split_name
from harness.hosts.host import HostModel
from harness.hosts.weights.facts import check_sizes
from harness.hosts.weights.released import POSITION_TABLES, interpolate_positions
from harness.kit.errors import HarnessError
from harness.kit.files import write_atomically
from harness.kit.reading import why_no_file
from harness.reduction import TokenReducer

METHOD = "method."  # before the names of a method's tensors in a file of its host's weights
Found = TypeVar("Found")


@dataclass(frozen=True)
class LearnedMethod:
    """What a method has learned, as it lies beside the weights of its host: its name, config and parameters."""

    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes in the names' order; the same whatever the file's layout."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(
    model: HostModel,
    path: Path,
    name: str,
    dtype: torch.dtype = torch.float16,
    method: tuple[str, TokenReducer[Any]] | None = None,
    only: str = r".+",
) -> str:
    """Write a model's weights whole or not at all, and return their digest (of the stored dtype).

    The file says which tensors are as they were drawn (`HostModel.untrained`): it cannot do what these are for.
    `method`: the name and the module of a method that was trained with the host; its parameters lie beside the host's.
    `only`: the pattern of the names of the host's tensors that are written.
    """
    state = {key: value for key, value in model.state_dict().items() if re.fullmatch(only, key)}
    learned = method if method is not None and method[1].learns else None
    if learned is not None:
        state |= {f"{METHOD}{key}": value for key, value in learned[1].state_dict().items()}
    tensors = {key: value.detach().cpu().to(dtype).contiguous() for key, value in state.items()}
    digest = tensors_digest(tensors)
    family, preset = split_name(name)
    metadata = {
        "architecture": family,
        "preset": preset,
        "config": model.config.model_dump_json(),
        "sha256": digest,
    }
    if untrained := model.absent | model.untrained:
        metadata["untrained"] = json.dumps(sorted(untrained))
    if learned is not None:
        config = learned[1].config.model_dump(mode="json")
        metadata["method"] = json.dumps({"name": learned[0], "config": config})
    write_atomically(path, save(tensors, metadata))
    return digest


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors as stored and the metadata of a safetensors file; HarnessError where it is not whole or was changed."""

    def whole(file: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
        names: list[str] = list(file.keys())
        return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})

    tensors, metadata = _read(path, whole)
    if metadata.get("sha256", tensors_digest(tensors)) != tensors_digest(tensors):
        raise HarnessError(
            f"weights {path}: changed since they were saved (their digest does not fit); fetch them again"
        )
    return tensors, metadata


def file_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself, read without its tensors; HarnessError where it is not whole."""
    return _read(path, lambda file: dict(file.metadata() or {}))


def _read(path: Path, read: Callable[[Any], Found]) -> Found:
    """What is read from an opened safetensors file; HarnessError for none and for one that is not whole."""
    if not path.is_file():
        raise HarnessError(f"weights {path}: {why_no_file(path)}; name a file of weights with --weights")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return read(file)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise HarnessError(
            f"weights {path}: not a whole safetensors file ({reason}); save or fetch it again"
        ) from error


def split_method(
    tensors: dict[str, Tensor], metadata: Mapping[str, str], path: Path
) -> tuple[dict[str, Tensor], LearnedMethod | None]:
    """A host's tensors, and what a method has learned beside them; HarnessError for a file that says it badly."""
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(METHOD)}
    stated = stated_method(metadata, path)
    if stated is None:
        return own, None
    learned = {name.removeprefix(METHOD): value for name, value in tensors.items() if name.startswith(METHOD)}
    return own, LearnedMethod(*stated, learned)


def stated_method(metadata: Mapping[str, str], path: Path) -> tuple[str, dict[str, Any]] | None:
    """The name and config of the method that learned with the weights, as their file states them; None for none."""
    if "method" not in metadata:
        return None
    try:
        stated = json.loads(metadata["method"])
        return str(stated["name"]), dict(stated["config"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise HarnessError(f"weights {path}: name their method in no JSON object; save or fetch them again") from error


def untrained_in(metadata: Mapping[str, str], path: Path) -> frozenset[str]:
    """The tensors that neither training nor a file before it gave anything, as a file of ours says; often none."""
    try:
        return frozenset(json.loads(metadata.get("untrained", "[]")))
    except (ValueError, TypeError, RecursionError) as error:
        line = f"weights {path}: name their untrained tensors in no JSON list; save or fetch them again"
        raise HarnessError(line) from error


def own_model(
    name: str, tensors: dict[str, Tensor], metadata: dict[str, str], path: Path, image_size: int | None = None
) -> HostModel:
    """A host filled from our own file, at the sizes the file states, its position table resized where asked for."""
    sizes = own_sizes(name, metadata, path)
    check_state(skeleton(name, sizes=sizes), tensors, path)  # before anything of a size that is not there is made
    model = build_host(name, **sizes)
    load_state(model, tensors, path)
    if image_size is None or image_size == model.config.image_size:
        return model
    resized = build_host(name, **sizes | {"image_size": image_size})
    own, held = resized.state_dict(), model.state_dict()
    resized.load_state_dict(
        {key: interpolate_positions(held[key], own[key].shape) if key in POSITION_TABLES else held[key] for key in own}
    )
    return resized


def own_sizes(name: str, metadata: dict[str, str], path: Path) -> dict[str, object]:
    """The sizes in a file's metadata, none for a file without; HarnessError for those of another architecture."""
    if "config" not in metadata:
        return {}
    family = metadata.get("architecture")
    if family is None:
        raise HarnessError(f"weights {path}: states no architecture, so not weights of {name}; name its own")
    if family != split_name(name)[0]:
        raise HarnessError(f"weights {path}: of {family}-{metadata.get('preset', '?')}, not of {name}; name its own")
    try:
        stated: dict[str, object] = dict(json.loads(metadata["config"]))
    except (ValueError, TypeError, RecursionError) as error:
        raise HarnessError(f"weights {path}: states its sizes in no JSON object; save or fetch it again") from error
    check_sizes(stated, f"weights {path}")
    return known_sizes(name, stated)


def known_sizes(name: str, sizes: Mapping[str, object]) -> dict[str, object]:
    known = host_class(name).Config.model_fields
    return {key: value for key, value in sizes.items() if key in known}


def load_state(model: torch.nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Fill a model, strictly; raises HarnessError naming the first names or shapes that do not match."""
    check_state(model, tensors, source)
    model.load_state_dict({key: value.float() for key, value in tensors.items()})


def check_state(model: torch.nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """HarnessError naming the first names or shapes in which tensors are not those of a model."""
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    complaints = [f"lacks {key}" for key in expected if key not in found]
    complaints += [f"has unknown {key}" for key in found if key not in expected]
    complaints += [
        f"{key} is {found[key]}, expected {shape}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    if complaints:
        more = f" and {len(complaints) - 3} more" if len(complaints) > 3 else ""
        raise HarnessError(f"weights {source}: of another model: {'; '.join(complaints[:3])}{more}")
