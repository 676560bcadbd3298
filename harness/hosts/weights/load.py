"""A host loaded with its weights, whether ours or a released program's, and what they state without being loaded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.hosts.build import build_host, host_class, skeleton
from harness.hosts.host import HostConfig, HostModel
from harness.hosts.parts.tokenizer import (
    VOCABULARY_FILE,
    MissingTokenizer,
    Tokenizer,
    holds_tokenizer,
    open_tokenizer,
)
from harness.hosts.weights.facts import AGAIN, CONFIG_FILE, WITHIN, Facts, config_beside, stated_by
from harness.hosts.weights.find import assets_of, find_weights, weights_file
from harness.hosts.weights.own import (
    LearnedMethod,
    file_metadata,
    known_sizes,
    own_model,
    own_sizes,
    read_weights,
    split_method,
    tensors_digest,
    untrained_in,
)
from harness.hosts.weights.released import LoadReport, load_released
from harness.hosts.weights.released_files import config_within, is_released, passed_over
from harness.kit.errors import HarnessError


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
        with _making(name, path):
            model = build_host(name, **{**host_class(name).sizes_for(tensors), **facts.sizes, **asked})
        report: LoadReport | None
        report, learned = load_released(model, tensors, str(path)), None
        report.guessed, report.passed_over = facts.guessed, passed_over(path)
        model.absent = absent_after(model, report)
    else:
        tensors, metadata = read_weights(path)
        own, learned = split_method(tensors, metadata, path)
        model, report = own_model(name, own, metadata, path, image_size), None
        model.absent = untrained_in(metadata, path)
    _require_finite(tensors, path)
    reader = _tokenizer(name, model.config, path.parent, tokenizer)
    answers = read_answers(path.parent) or read_answers(assets_of(name))
    prompt = read_prompt(path.parent)
    return LoadedModel(name, model.eval(), reader, answers, path, tensors_digest(tensors), report, prompt, learned)


def read_answers(folder: Path) -> tuple[str, ...]:
    """The closed answer list in a folder of weights, from its config.json; empty where there is none."""
    listed = config_beside(folder).get("answers", [])
    if not isinstance(listed, list) or not all(isinstance(one, str) and one.strip() for one in listed):
        raise HarnessError(f"{folder / CONFIG_FILE}: answers: expected a list of texts; {AGAIN}")
    return tuple(listed)


def read_prompt(folder: Path) -> str:
    """What a captioner in a folder of weights was trained to begin with, from its config.json; empty where none is."""
    prompt = config_beside(folder).get("prompt", "")
    if not isinstance(prompt, str):
        raise HarnessError(f"{folder / CONFIG_FILE}: prompt: expected a text; {AGAIN}")
    return prompt


def stated_beside(name: str, path: Path) -> Facts:
    """The sizes that the configs beside and within a released file state, and what is guessed for want of them."""
    kind = host_class(name)
    configs = {file: config_beside(path.parent, file) for file in kind.FACT_FILES}
    configs |= {WITHIN: config_within(path)} if WITHIN in kind.FACT_FILES else {}
    named = [str(path if file == WITHIN else path.parent / file) for file, stated in configs.items() if stated]
    with stated_by(f"{' and '.join(named)}: states no {name}"):
        facts = kind.stated_facts(name, configs)
    return Facts(known_sizes(name, facts.sizes), facts.guessed)


def stated_sizes(name: str, path: Path) -> dict[str, Any]:
    """The sizes that a host's weights state, or the configs beside a released file, read without loading them.

    HarnessError where the file is not whole or another architecture's.
    """
    if is_released(path):
        return dict(stated_beside(name, path).sizes)
    metadata = file_metadata(path)
    return dict(own_sizes(name, metadata, path))


def abilities_in(name: str, path: Path) -> frozenset[str]:
    """What a host can be asked with a file of weights, found from the names of its tensors; nothing is filled in."""
    if not is_released(path):
        model = skeleton(name, sizes=stated_sizes(name, path))
        model.absent = untrained_in(file_metadata(path), path)
        return model.abilities
    tensors = host_class(name).read_released(name, path)
    sizes = {**host_class(name).sizes_for(tensors), **stated_beside(name, path).sizes}
    with _making(name, path):
        model = skeleton(name, sizes=sizes)
    model.absent = absent_after(model, load_released(model, tensors, str(path)))
    return model.abilities


def absent_after(model: HostModel, report: LoadReport) -> frozenset[str]:
    """The tensors that a released file did not hold, but for those that start from others as the papers start them."""
    return frozenset(report.missing) - frozenset(model.derived)


def _making(name: str, path: Path) -> AbstractContextManager[None]:
    """A block that makes a host of the sizes that a file states: HarnessError where they make none."""
    return stated_by(f"weights {path}: the sizes that it and its configs state make no {name}")


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
        if tensor.is_floating_point() and not bool(
            torch.isfinite(tensor if tensor.itemsize > 1 else tensor.float()).all()
        ):
            raise HarnessError(f"weights {path}: {name} has NaN or infinite numbers; save or fetch them again")
