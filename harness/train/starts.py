"""What pre-training starts one side of a host from: a file of another model, a host of ours, or a start that ships.

A start is a folder with a folder for each family of hosts that it was made for (`harness/assets/scenes-vit/albef`), as
`pretrain --objective scene_vision` leaves one. A start that does not fit is refused before anything runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.data.world import BUILT_IN_WORLD, are_worlds, world_of
from harness.hosts.build import host_class, host_config, skeleton, split_name
from harness.hosts.host import HostModel
from harness.hosts.parts.tokenizer import VOCABULARY_FILE, TextTokenizer
from harness.hosts.weights.facts import CONFIG_FILE
from harness.hosts.weights.find import WEIGHTS_FILE, assets_of, find_weights, weights_file
from harness.hosts.weights.own import read_weights, split_method
from harness.hosts.weights.released import LoadReport, load_parts
from harness.hosts.weights.released_files import content_digest, is_released, read_released
from harness.kit.errors import HarnessError
from harness.kit.registry import models
from harness.objectives.parts.recipe import PRETRAIN, SCENES_UNTOUCHED, on_data
from harness.train.request import RANDOM, PretrainSpec

# Whose vocabulary holds the words of the built-in world.
DEFAULT_HOST = "albef-tiny"
# The option of each side of a host.
SIDES = {"vision": "init_vision", "text": "init_text"}
# By option, what the start that ships for a named world is called: WORLD-vit, WORLD-bert.
SHIPPED = {"init_vision": "vit", "init_text": "bert"}


def start_sides(host: HostModel, family: str, spec: PretrainSpec, words: Sequence[str]) -> list[str]:
    """Fill the sides of a host that a spec names starts for; what became of their tensors, in lines.

    `words`: the host's vocabulary, empty for a tokenizer from elsewhere. Raises HarnessError for starts that do not fit
    the host or its words.
    """
    lines = []
    for side, option in SIDES.items():
        source = getattr(spec, option)
        if source not in (None, RANDOM):
            path = start_file(source, family, host.VISION_FROM if side == "vision" else host.TEXT_FROM)
            lines += [f"{side}: {line}" for line in _fill(host, family, words, side, path).lines()]
    return lines


def check_starts(model: str, sizes: Mapping[str, Any], spec: PretrainSpec) -> None:
    """HarnessError for starts that a host of these sizes, begun afresh, cannot take; nothing is drawn for it.

    A text side waits for the words where these are to be built from captions.
    """
    words = known_words(model, spec)
    if words is None:
        spec = spec.model_copy(update={SIDES["text"]: None})
    if spec.init is not None or all(getattr(spec, option) in (None, RANDOM) for option in SIDES.values()):
        return
    numbers = {word: number for number, word in enumerate(words or ())}
    known = host_class(model).vocabulary_sizes(numbers) if numbers else {}
    host = skeleton(model, sizes={**sizes, **known}).to_empty(device="cpu")
    start_sides(host, split_name(model)[0], spec, words or ())


def shipped_starts(model: str, spec: PretrainSpec, sources: Sequence[str]) -> dict[str, str]:
    """By option, the starts that ship for a host of its preset and a world, where it learns that one in its words and
    nothing else is named for that side.
    """
    named = (spec.init, spec.tokenizer, spec.vocabulary)
    world = world_of(sources[0]) if len(sources) == 1 else None
    if world is None or any(one is not None for one in named):
        return {}
    host, (family, preset) = host_class(model), split_name(model)
    kin = {"init_vision": host.VISION_FROM, "init_text": host.TEXT_FROM}
    starts = {option: f"{world.name}-{name}" for option, name in SHIPPED.items() if getattr(spec, option) is None}
    made = {option: _made(assets_of(start), family, kin[option]) for option, start in starts.items()}
    return {option: starts[option] for option, path in made.items() if path is not None and _preset(path) == preset}


def random_sides(model: str, spec: PretrainSpec, sources: Sequence[str]) -> list[str]:
    """A line for each side of a host that begins as it is drawn although a start ships for it."""
    shipped, side = shipped_starts(model, spec, sources), {option: side for side, option in SIDES.items()}
    return [
        f"{side[option]}: random weights; --{option.replace('_', '-')} {start} ships for {model} on {sources[0]}"
        for option, start in shipped.items()
    ]


def pretraining_changes(
    model: str, sources: tuple[str, ...], given: Mapping[str, Any], *, from_random: bool
) -> dict[str, Any]:
    """What is changed in a host's recipe of pre-training on some data. The numbers of a built-in world are for hosts
    that begin with its starts: an objective that begins `from_random` weights takes none of them.
    """
    changes = on_data(model, PRETRAIN, sources, given)
    return {name: to for name, to in changes.items() if not from_random or name in given or name in SCENES_UNTOUCHED}


def known_words(model: str, spec: PretrainSpec) -> Sequence[str] | None:
    """The vocabulary that a host begins with, as far as it is known before any data are read; none of one elsewhere."""
    if spec.tokenizer is not None:
        path = Path(spec.tokenizer)
        return list(TextTokenizer(path, 1).vocabulary) if path.is_file() else ()
    if spec.vocabulary is not None or not are_worlds(spec.data or (BUILT_IN_WORLD,)):
        return None
    return () if host_config(model).tokenizer is not None else world_words(model)


def world_words(model: str) -> list[str]:
    """The words of the built-in world, and those that a host needs beside them."""
    shipped = assets_of(DEFAULT_HOST) / VOCABULARY_FILE
    return [*shipped.read_text(encoding="utf-8").split(), *host_class(model).EXTRA_WORDS]


def start_file(source: str, family: str, kin: frozenset[str] = frozenset()) -> Path:
    """The file of a start for a family of hosts: its own, or else that of a family whose tensors it can take.

    `source`: the name of a host or of a start that ships, a file or folder, or a name in the Hugging Face cache.
    Raises HarnessError where there is none.
    """
    if source in models.entries():
        return weights_file(source)
    ships = Path(source).name == source and assets_of(source).is_dir()
    folder = assets_of(source) if ships else Path(source)
    made = _made(folder, family, kin)
    if made is not None:
        return made
    if ships:
        known = ", ".join(sorted(path.parent.name for path in folder.glob(f"*/{WEIGHTS_FILE}")))
        raise HarnessError(f"start {source}: there is none for a host of {family}, only for {known}; name another")
    return find_weights(source)


def _made(folder: Path, family: str, kin: frozenset[str]) -> Path | None:
    """The file in a start's folder for a family of hosts, or else for one whose tensors it can take."""
    files = (folder / one / WEIGHTS_FILE for one in (family, *sorted(kin)))
    return next((path for path in files if path.is_file()), None)


def _preset(weights: Path) -> str:
    """The preset of the host that a start was made with."""
    stated: dict[str, Any] = json.loads((weights.parent / CONFIG_FILE).read_text(encoding="utf-8"))
    return str(stated["preset"])


def start_digest(model: str, option: str, source: str) -> str:
    """The content of what an option names for a host to start a side from."""
    host, family = host_class(model), split_name(model)[0]
    return content_digest(start_file(source, family, host.VISION_FROM if option == SIDES["vision"] else host.TEXT_FROM))


def _fill(host: HostModel, family: str, words: Sequence[str], side: str, path: Path) -> LoadReport:
    """Fill one side of a host from a file of weights."""
    if is_released(path):
        return load_parts(host, read_released(path), str(path), side)
    stored, metadata = read_weights(path)
    tensors, _ = split_method(stored, metadata, path)
    tower = {name: tensor.float() for name, tensor in tensors.items() if name.startswith("vision.")}
    theirs = metadata.get("architecture", "")
    if side == "vision":
        if theirs == family or theirs in host.VISION_FROM:
            return host.start_vision(tower, str(path))
        return load_parts(host, {name.removeprefix("vision."): tower[name] for name in tower}, str(path), side)
    rest = {name: tensor.float() for name, tensor in tensors.items() if name not in tower}
    if theirs != family and theirs not in host.TEXT_FROM:
        raise HarnessError(f"weights {path}: {type(host).__name__} cannot take its text side from a host of {theirs}")
    _check_words(words, path.parent)
    return host.start_text(theirs, rest, str(path))


def _check_words(words: Sequence[str], folder: Path) -> None:
    """HarnessError where a host's words do not begin with those of the weights in a folder, which it takes over."""
    path = folder / VOCABULARY_FILE
    theirs = list(TextTokenizer(path, 1).vocabulary) if path.is_file() else []
    if theirs and list(words[: len(theirs)]) == theirs:
        return
    raise HarnessError(
        f"--init-text: the vocabulary is not that of {folder}; name its {VOCABULARY_FILE} with --tokenizer"
    )
