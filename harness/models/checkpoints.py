"""Weights on disk: safetensors with a model's name, sizes and digest; nothing comes from the network."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from harness.errors import HarnessError
from harness.files import write_atomically
from harness.models.albef import Albef, build_albef
from harness.models.tokenizer import TextTokenizer

ASSETS = Path(__file__).resolve().parent.parent / "assets"
ARCHITECTURE = "albef"
WEIGHTS_FILE = "model.safetensors"
VOCABULARY_FILE = "vocab.txt"
CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class LoadedModel:
    """A host model ready to be measured: in eval mode, float32, with its tokenizer and the weights' digest.

    `answers` is the closed list that question answering ranks, one word of the vocabulary each.
    """

    name: str
    model: Albef
    tokenizer: TextTokenizer
    answers: tuple[str, ...]
    weights: Path
    weights_digest: str


def preset_of(name: str) -> str:
    """The preset in a host's name: "tiny" of "albef-tiny"."""
    return name.removeprefix(f"{ARCHITECTURE}-")


def assets_of(name: str) -> Path:
    """The folder that ships with a host model (vocabulary, weights, recipe)."""
    return ASSETS / name


def weights_file(name: str) -> Path:
    """The weights that ship with a host model."""
    return assets_of(name) / WEIGHTS_FILE


def read_answers(name: str) -> tuple[str, ...]:
    """The closed answer list that ships with a host model, from its config.json."""
    path = assets_of(name) / CONFIG_FILE
    try:
        return tuple(json.loads(path.read_text(encoding="utf-8"))["answers"])
    except (OSError, ValueError, KeyError) as error:
        raise HarnessError(f"{path}: expected a JSON file with a list of answers; install the package again") from error


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes in the names' order; the same whatever the file's layout."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(model: Albef, path: Path, name: str, dtype: torch.dtype = torch.float16) -> str:
    """Write a model's weights whole or not at all, and return their digest (of the stored dtype)."""
    tensors = {key: value.detach().cpu().to(dtype).contiguous() for key, value in model.state_dict().items()}
    digest = tensors_digest(tensors)
    metadata = {
        "architecture": ARCHITECTURE,
        "preset": preset_of(name),
        "config": model.config.model_dump_json(),
        "sha256": digest,
    }
    write_atomically(path, save(tensors, metadata))
    return digest


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors as stored and the metadata of a safetensors file."""
    if not path.is_file():
        raise HarnessError(f"weights {path}: no such file; name a .safetensors file with --weights")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            names: list[str] = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise HarnessError(
            f"weights {path}: not a whole safetensors file ({reason}); save or fetch it again"
        ) from error


def load_state(model: torch.nn.Module, tensors: dict[str, Tensor], source: Path) -> None:
    """Fill a model, strictly; raises HarnessError naming the first names or shapes that do not match."""
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
    model.load_state_dict({key: value.float() for key, value in tensors.items()})


def load_model(name: str, weights: Path | str | None = None) -> LoadedModel:
    """Load a host model, by default with the weights that ship with it.

    Raises HarnessError, one line, for an unknown name and for weights that are missing, damaged or another model's.
    """
    folder = assets_of(name)
    if not name.startswith(f"{ARCHITECTURE}-") or not folder.is_dir():
        known = ", ".join(sorted(path.name for path in ASSETS.glob(f"{ARCHITECTURE}-*")))
        raise HarnessError(f"model {name!r}: no such built-in host; there is {known}")
    path = Path(weights) if weights is not None else weights_file(name)
    model = build_albef(preset_of(name))
    tensors, _ = read_weights(path)
    load_state(model, tensors, path)
    tokenizer = TextTokenizer(folder / VOCABULARY_FILE, model.config.text_length)
    return LoadedModel(name, model.eval(), tokenizer, read_answers(name), path, tensors_digest(tensors))
