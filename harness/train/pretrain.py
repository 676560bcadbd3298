"""Pre-training of any host with any method, from image-caption pairs, on one process or many (accelerate)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from harness.data.pair_loader import PairLoader
from harness.data.scenes import scenes_folder
from harness.hosts.blip.from_albef import start_text_from_albef
from harness.hosts.blip.model import Blip
from harness.hosts.build import build_host, host_class, host_config
from harness.hosts.host import HostModel
from harness.hosts.parts.tokenizer import VOCABULARY_FILE, HubTokenizer, TextTokenizer, Tokenizer, open_tokenizer
from harness.hosts.weights.own import assets_of, find_weights, load_model, read_weights, weights_file
from harness.hosts.weights.released import LoadReport, load_parts
from harness.hosts.weights.released_files import is_released, read_released
from harness.kit import ranks
from harness.kit.errors import HarnessError
from harness.kit.files import write_atomically
from harness.kit.parallel import agreed, first
from harness.kit.progress import Progress
from harness.kit.registry import models
from harness.objectives import make_objective
from harness.objectives.recipe import recipe_of
from harness.train.request import SCENES, WORLD_SEED, PretrainRequest
from harness.train.session import Prepared, Session
from harness.train.vocabulary import build_vocabulary

TRAINING_SCENES = 30_000
VOCABULARY_CAPTIONS = 200_000
DEFAULT_VOCABULARY = 2000
# The built-in world's texts speak of places and colours, which crops, flips and RandAugment make untrue.
SCENES_UNTOUCHED: dict[str, Any] = {"crop": None, "flip": False, "randaugment": False}


def pretrain(request: PretrainRequest) -> dict[str, Any]:
    """Run a pre-training to its end, from its last checkpoint where there is one; returns what recipe.json holds.

    Writes model.safetensors, the tokenizer, config.json, recipe.json, log.jsonl, tensorboard/ and
    checkpoints/ to the request's folder. Raises HarnessError for anything the run cannot go on with.
    """
    recipe = recipe_of(request.model, untouched(request.data) | request.recipe)
    session = Session(request, recipe)
    done = session.finished()
    if done is not None:
        return done
    return session.train(*agreed(partial(_prepared, session, request)))


def _prepared(session: Session, request: PretrainRequest) -> Prepared:
    """All that a pre-training begins with."""
    recipe = session.recipe
    config = host_config(request.model, **request.sizes | {"image_size": recipe.image_size})
    loader = session.loader(config, with_scenes(session))
    host, tokenizer, told = _host(session, loader)
    objective = make_objective(request.model, host, session.reducer(host), tokenizer.specials, recipe)
    return objective, loader, tokenizer, told, {}


def untouched(sources: tuple[str, ...]) -> dict[str, Any]:
    """What is changed in a recipe for the built-in world alone."""
    return SCENES_UNTOUCHED if sources == (SCENES,) else {}


def with_scenes(session: Session) -> tuple[str, ...]:
    """A request's sources, the built-in world written to its folder."""
    request = session.request
    if SCENES not in request.data:
        return request.data
    with first():
        folder = str(scenes_folder(TRAINING_SCENES, WORLD_SEED, "train", Progress(request.quiet)))
    return tuple(folder if source == SCENES else source for source in request.data)


def _host(session: Session, loader: PairLoader) -> tuple[HostModel, Tokenizer, list[str]]:
    """The host to start from, its tokenizer, and what became of each tensor of the weights it starts from."""
    request, recipe = session.request, session.recipe
    assert isinstance(request, PretrainRequest)
    if request.init is not None:
        loaded = load_model(request.model, request.init, recipe.image_size, request.tokenizer)
        if request.sizes or request.vocabulary or recipe.dropout is not None:
            raise HarnessError("--init: the weights decide sizes, vocabulary and dropout; leave them out")
        host, tokenizer = loaded.model, loaded.tokenizer
        told = [] if loaded.report is None else loaded.report.lines()
    else:
        changes: dict[str, Any] = request.sizes | {"image_size": recipe.image_size}
        if recipe.dropout is not None:
            changes["dropout"] = recipe.dropout
        tokenizer = _tokenizer(session, host_config(request.model, **changes).text_length, loader)
        if isinstance(tokenizer, TextTokenizer):
            changes |= host_class(request.model).vocabulary_sizes(tokenizer.vocabulary)
        host, told = build_host(request.model, **changes), []
    for part, source in (("vision", request.init_vision), ("text", request.init_text)):
        if source is not None:
            told += [f"{part}: {line}" for line in _start_part(host, tokenizer, part, source).lines()]
    return host.train(), tokenizer, told


def _start_part(host: HostModel, tokenizer: Tokenizer, part: str, source: str) -> LoadReport:
    """Fill one side of a host from another model's weights, or from another host of ours, by name or folder."""
    path = weights_file(source) if source in models.entries() else find_weights(source)
    if is_released(path):
        return load_parts(host, read_released(path), str(path), part)
    tensors, metadata = read_weights(path)
    tower = {name: tensor.float() for name, tensor in tensors.items() if name.startswith("vision.")}
    if part == "vision":
        return load_parts(host, {name.removeprefix("vision."): tower[name] for name in tower}, str(path), part)
    if isinstance(host, Blip) and metadata.get("architecture") == "albef":
        _check_words(tokenizer, path.parent)
        rest = {name: tensor.float() for name, tensor in tensors.items() if name not in tower}
        return start_text_from_albef(host, rest, str(path))
    raise HarnessError(f"weights {path}: of a host of this program; only a BLIP can take its text side from an ALBEF")


def _check_words(tokenizer: Tokenizer, folder: Path) -> None:
    """HarnessError where a host's words do not begin with those of the weights in a folder, which it takes over."""
    theirs = open_tokenizer(None, folder / VOCABULARY_FILE, tokenizer.max_length)
    if isinstance(tokenizer, TextTokenizer) and isinstance(theirs, TextTokenizer):
        words, known = list(theirs.vocabulary), list(tokenizer.vocabulary)
        if known[: len(words)] == words:
            return
    raise HarnessError(
        f"--init-text: the vocabulary is not that of {folder}; name its {VOCABULARY_FILE} with --tokenizer"
    )


def _tokenizer(session: Session, length: int, loader: PairLoader) -> Tokenizer:
    """The one named; else the host's own; else the built-in world's words, or on other data a vocabulary built anew."""
    request = session.request
    assert isinstance(request, PretrainRequest)
    config = host_config(request.model)
    shipped = assets_of("albef-tiny") / VOCABULARY_FILE
    builds = request.vocabulary is not None or (config.tokenizer is None and request.data != (SCENES,))
    extra = host_class(request.model).EXTRA_WORDS
    if request.tokenizer is not None:
        return open_tokenizer(None, shipped, length, request.tokenizer)
    if config.tokenizer is not None and not builds:
        return HubTokenizer(config.tokenizer, length)
    if builds:
        captions = loader.some_captions(VOCABULARY_CAPTIONS)
        if not captions:
            raise HarnessError("no captions to build a vocabulary from; name one with --tokenizer")
        words = build_vocabulary(captions, request.vocabulary or DEFAULT_VOCABULARY, extra)
    else:
        words = [*shipped.read_text(encoding="utf-8").split(), *extra]
    path = request.out / VOCABULARY_FILE
    with first():
        if ranks.is_first():
            write_atomically(path, "".join(f"{word}\n" for word in words).encode())
    return TextTokenizer(path, length)
