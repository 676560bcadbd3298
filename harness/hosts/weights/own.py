"""Weights on disk: our safetensors with a model's name, sizes and digest, or a released program's own files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from harness.hosts.build import build_host, host_class, host_config, skeleton, split_name
from harness.hosts.host import HostConfig, HostModel
from harness.hosts.parts.tokenizer import (
    VOCABULARY_FILE,
    MissingTokenizer,
    Tokenizer,
    holds_tokenizer,
    open_tokenizer,
)
from harness.hosts.weights.facts import WITHIN, Facts, check_sizes, config_beside
from harness.hosts.weights.hub import HUB_NAME, in_hub_cache
from harness.hosts.weights.released import POSITION_TABLES, LoadReport, interpolate_positions, load_released
from harness.hosts.weights.released_files import INDEX_SUFFIX, TORCH_SUFFIXES, config_within, is_released
from harness.kit.errors import HarnessError
from harness.kit.files import write_atomically
from harness.reduction import TokenReducer

ASSETS = Path(__file__).resolve().parents[2] / "assets"
WEIGHTS_FILE = "model.safetensors"
OF_A_FOLDER = "transformers/"
METHOD = "method."  # before the names of a method's tensors in a file of its host's weights
# In folders and in the Hugging Face cache: ours, transformers', timm's and open_clip's.
WEIGHTS_FILES = (
    *(WEIGHTS_FILE, "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    *(f"{WEIGHTS_FILE}{INDEX_SUFFIX}", f"pytorch_model.bin{INDEX_SUFFIX}"),
)


@dataclass(frozen=True)
class LoadedModel:
    """A host model ready to be measured: in eval mode, float32, with its tokenizer and the weights' digest.

    `answers` is the closed list that question answering ranks; empty where none comes with the weights. `report`
    accounts for every tensor of a released file, and is None for our own. `prompt`: what a captioner was trained to
    begin with. `learned`: the method that was trained with the host, where one was that learns.
    """

    name: str
    model: HostModel
    tokenizer: Tokenizer
    answers: tuple[str, ...]
    weights: Path
    weights_digest: str
    report: LoadReport | None = None
    prompt: str = ""
    learned: LearnedMethod | None = None


def assets_of(name: str) -> Path:
    """The folder that ships with a host model (vocabulary, weights, recipe)."""
    return ASSETS / name


def weights_file(name: str) -> Path:
    """The weights that ship with a host model, or lie in the folder it is named after; HarnessError for neither."""
    if "/" in name:
        host_config(name)  # says what is wrong with the name of a ViT
    if name.startswith(OF_A_FOLDER):
        return find_weights(name.removeprefix(OF_A_FOLDER))
    path = assets_of(name) / WEIGHTS_FILE
    if not path.is_file():
        split_name(name)
        shipped = ", ".join(sorted(folder.parent.name for folder in ASSETS.glob(f"*/{WEIGHTS_FILE}")))
        raise HarnessError(f"model {name}: no weights ship with it (they do with {shipped}); name some with --weights")
    return path


def find_weights(source: Path | str) -> Path:
    """The file of weights that a file, a folder or a name in the Hugging Face cache stands for; never the network.

    Raises HarnessError for a folder without weights and for what is neither here nor in the cache.
    """
    path, name = Path(source), Path(source).as_posix()
    if path.is_dir():
        found = [path / file for file in WEIGHTS_FILES if (path / file).is_file()]
        if not found:
            raise HarnessError(f"weights {path}: no {' or '.join(WEIGHTS_FILES[:2])} in this folder; name a file")
        return found[0]
    named = path.suffix in (*TORCH_SUFFIXES, ".safetensors") or name.endswith(INDEX_SUFFIX)
    if path.exists() or named or not HUB_NAME.fullmatch(name):
        return path
    for file in WEIGHTS_FILES:
        cached = in_hub_cache(name, file)
        if cached is not None:
            return cached
    raise HarnessError(
        f"weights {name}: no such file or folder, and not in the Hugging Face cache; add --download, or run "
        f"`hf download {name}`, where there is a network, or name a local file or folder"
    )


def read_answers(folder: Path) -> tuple[str, ...]:
    """The closed answer list in a folder of weights, from its config.json; empty where there is none."""
    listed = config_beside(folder).get("answers", ())
    return tuple(listed) if isinstance(listed, list) else ()


def stated_beside(name: str, path: Path) -> Facts:
    """The sizes that the configs beside and within a released file state, and what is guessed for want of them."""
    kind = host_class(name)
    configs = {file: config_beside(path.parent, file) for file in kind.FACT_FILES}
    facts = kind.stated_facts(name, configs | ({WITHIN: config_within(path)} if WITHIN in kind.FACT_FILES else {}))
    return Facts(_known(name, facts.sizes), facts.guessed)


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes in the names' order; the same whatever the file's layout."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class LearnedMethod:
    """What a method has learned, as it lies beside the weights of its host: its name, config and parameters."""

    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]


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
    """Tensors as stored and the metadata of a safetensors file."""
    if not path.is_file():
        raise HarnessError(f"weights {path}: no such file; name a file of weights with --weights")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            names: list[str] = list(file.keys())
            tensors, metadata = {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise HarnessError(
            f"weights {path}: not a whole safetensors file ({reason}); save or fetch it again"
        ) from error
    if metadata.get("sha256", tensors_digest(tensors)) != tensors_digest(tensors):
        raise HarnessError(
            f"weights {path}: changed since they were saved (their digest does not fit); fetch them again"
        )
    return tensors, metadata


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
    except (ValueError, TypeError) as error:
        line = f"weights {path}: name their untrained tensors in no JSON list; save or fetch them again"
        raise HarnessError(line) from error


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


def stated_sizes(name: str, path: Path) -> dict[str, Any]:
    """The sizes that a host's weights state, or the configs beside a released file, read without loading them.

    HarnessError where the file is not whole or another architecture's.
    """
    if is_released(path):
        return dict(stated_beside(name, path).sizes)
    metadata = file_metadata(path)
    return dict(_stated_sizes(name, metadata, path))


def file_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself, read without its tensors; HarnessError where it is not whole."""
    if not path.is_file():
        raise HarnessError(f"weights {path}: no such file; name a file or folder of weights with --weights")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return dict(file.metadata() or {})
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise HarnessError(
            f"weights {path}: not a whole safetensors file ({reason}); save or fetch it again"
        ) from error


def load_model(
    name: str, weights: Path | str | None = None, image_size: int | None = None, tokenizer: str | None = None
) -> LoadedModel:
    """Load a host model: the weights that ship with it, a folder that `pretrain` wrote, or a released program's.

    `weights`: a file, a folder of ours or of transformers, or a name in the Hugging Face cache. `image_size` other than
    the weights' interpolates their position table. `tokenizer`: a vocabulary file, folder or name in the Hugging Face
    cache, in place of the weights' own. Raises HarnessError, one line, for an unknown name and for weights that are
    missing, damaged or another model's.
    """
    path = find_weights(weights) if weights is not None else weights_file(name)
    if is_released(path):
        tensors = host_class(name).read_released(name, path)
        facts = stated_beside(name, path)
        asked = {} if image_size is None else {"image_size": image_size}
        model = build_host(name, **{**host_class(name).sizes_for(tensors), **facts.sizes, **asked})
        report: LoadReport | None
        report, learned = load_released(model, tensors, str(path)), None
        report.guessed = facts.guessed
        model.absent = absent_after(model, report)
    else:
        tensors, metadata = read_weights(path)
        own, learned = split_method(tensors, metadata, path)
        model, report = own_model(name, own, metadata, path, image_size), None
        model.absent = untrained_in(metadata, path)
    _require_finite(tensors, path)
    reader = _tokenizer(name, model.config, path.parent, tokenizer)
    answers = read_answers(path.parent) or read_answers(assets_of(name))
    prompt = str(config_beside(path.parent).get("prompt", ""))
    return LoadedModel(name, model.eval(), reader, answers, path, tensors_digest(tensors), report, prompt, learned)


def _tokenizer(name: str, config: HostConfig, folder: Path, chosen: str | None) -> Tokenizer:
    """The tokenizer of a host with weights from a folder, whose words fit the host's table.

    Where none can be opened and none was chosen, one that says so when a text is to be read: features want none.
    """
    place = folder if holds_tokenizer(folder) else assets_of(name)
    try:
        reader = open_tokenizer(config.tokenizer, place / VOCABULARY_FILE, config.text_length, chosen)
    except HarnessError as error:
        if chosen is not None:
            raise
        return MissingTokenizer(str(error))
    if reader.words_known > config.vocab_size:
        raise HarnessError(
            f"vocabulary of {reader.words_known:,} words, but the weights' table has {config.vocab_size:,}: name the "
            "weights' own with --tokenizer"
        )
    return reader


def _require_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """HarnessError for weights with NaN or infinite numbers: whatever they are asked, they answer nothing."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise HarnessError(f"weights {path}: {name} has NaN or infinite numbers; save or fetch them again")


def absent_after(model: HostModel, report: LoadReport) -> frozenset[str]:
    """The tensors that a released file did not hold, but for those that start from others as the papers start them."""
    return frozenset(report.missing) - frozenset(model.derived)


def abilities_in(name: str, path: Path) -> frozenset[str]:
    """What a host can be asked with a file of weights, found from the names of its tensors; nothing is filled in."""
    if not is_released(path):
        model = skeleton(name, sizes=stated_sizes(name, path))
        model.absent = untrained_in(file_metadata(path), path)
        return model.abilities
    tensors = host_class(name).read_released(name, path)
    model = skeleton(name, sizes={**host_class(name).sizes_for(tensors), **stated_beside(name, path).sizes})
    model.absent = absent_after(model, load_released(model, tensors, str(path)))
    return model.abilities


def own_model(
    name: str, tensors: dict[str, Tensor], metadata: dict[str, str], path: Path, image_size: int | None = None
) -> HostModel:
    """A host filled from our own file, at the sizes the file states, its position table resized where asked for."""
    sizes = _stated_sizes(name, metadata, path)
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


def _stated_sizes(name: str, metadata: dict[str, str], path: Path) -> dict[str, object]:
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
    return _known(name, stated)


def _known(name: str, sizes: Mapping[str, object]) -> dict[str, object]:
    known = host_class(name).Config.model_fields
    return {key: value for key, value in sizes.items() if key in known}
