"""Pre-training of any host with any method, from image-caption pairs, on one process or many (accelerate)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from harness.data.world import are_worlds
from harness.hosts.build import build_host, host_class, host_config, skeleton, split_name
from harness.hosts.host import HostModel
from harness.hosts.parts.tokenizer import VOCABULARY_FILE, HubTokenizer, TextTokenizer, Tokenizer, open_tokenizer
from harness.hosts.weights.find import find_weights
from harness.hosts.weights.load import load_model, stated_sizes
from harness.hosts.weights.own import LearnedMethod
from harness.kit import distributed
from harness.kit.distributed import main_process_first, run_together
from harness.kit.errors import HarnessError
from harness.kit.files import write_atomically
from harness.objectives import Choice, choose
from harness.objectives.parts.batches import Batches
from harness.objectives.parts.objective import Objective
from harness.objectives.parts.recipe import Recipe, recipe_of
from harness.reduction import TokenReducer
from harness.train.equal_budget import Trained, budget_of
from harness.train.request import PretrainRequest
from harness.train.session import Prepared, Session, method_for
from harness.train.starts import check_starts, pretraining_changes, random_sides, start_sides, world_words
from harness.train.vocabulary import build_vocabulary

VOCABULARY_CAPTIONS = 200_000
DEFAULT_VOCABULARY = 2000


def pretrain(request: PretrainRequest) -> dict[str, Any]:
    """Run a pre-training to its end, from its last checkpoint where there is one; returns what recipe.json holds.

    Writes model.safetensors, the tokenizer, config.json, recipe.json, log.jsonl, tensorboard/ and
    checkpoints/ to the request's folder. Raises HarnessError for anything the run cannot go on with.
    """
    request.fetch()
    choice = choose(request.model, request.objective, request.objective_settings)
    choice.check_host(skeleton(request.model))  # before any data are read
    choice.check_method(request.method)
    changes = pretraining_changes(request.model, request.data, request.recipe, from_random=choice.from_random)
    recipe = recipe_of(request.model, changes)
    request, recipe = within_budget(request, recipe)
    session = Session(request, recipe, unused_parameters=choice.leaves_unused or recipe.matching_from > 0)
    session.facts |= {"objective": choice.name, "objective_settings": choice.settings()}
    return session.finished() or session.train(run_together(partial(prepare, session, request, choice)))


def within_budget(request: PretrainRequest, recipe: Recipe) -> tuple[PretrainRequest, Recipe]:
    """The request with the steps, and the recipe with the batch, that its budget comes to for its method."""
    budget = budget_of(request)
    if not budget.asked and budget.batch_size is None:
        return request, recipe
    sizes = {} if request.init is None else stated_sizes(request.model, find_weights(request.init))
    sizes |= request.sizes | {"image_size": recipe.image_size}
    host = skeleton(request.model, sizes=sizes)
    trained = _trained(request, host, method_for(request, host))
    recipe, steps = budget.resolve(recipe, trained, request.ratio, distributed.world())
    return request.model_copy(update={"steps": steps}), recipe


def _trained(request: PretrainRequest, host: HostModel, reducer: TokenReducer[Any]) -> Trained:
    """What a request trains, as its costs are counted."""
    sizes, config = host.config.model_dump(mode="json"), reducer.config.model_dump(mode="json")
    return Trained(request.model, sizes, request.objective, request.objective_settings, request.method, config)


def prepare(session: Session, request: PretrainRequest, choice: Choice) -> Prepared:
    """All that a pre-training begins with."""
    changes = request.sizes | {"image_size": session.recipe.image_size}
    config = host_config(request.model, **changes)
    check_starts(request.model, changes, request)
    batches = session.batches(choice, config, request.data)
    host, tokenizer, start, learned = _start(session, request, batches)
    if not choice.from_random:
        start += random_sides(request.model, request, request.data)
    objective = choice.make(host, session.reducer(host, learned), tokenizer.specials, session.recipe)
    counted = None
    if choice.terms[0].kind.same_batches(Objective):
        counted = _trained(request, host, objective.reducer).gmacs_per_pair(session.recipe)
    return Prepared(choice, objective, batches, tokenizer, start, counted)


Start = tuple[HostModel, Tokenizer, list[str], LearnedMethod | None]


def _start(session: Session, request: PretrainRequest, batches: Batches) -> Start:
    """The host to start from, its tokenizer, what became of each tensor of the weights it starts from, and what a
    method has learned with them.
    """
    host, tokenizer, lines, learned = (_afresh if request.init is None else _from_weights)(session, request, batches)
    words = list(tokenizer.vocabulary) if isinstance(tokenizer, TextTokenizer) else ()
    before = {name: tensor.clone() for name, tensor in host.state_dict().items() if name in host.untrained}
    lines += start_sides(host, split_name(request.model)[0], request, words)
    now = host.state_dict()
    host.untrained -= {name for name, tensor in before.items() if not torch.equal(tensor, now[name])}
    return host.train(), tokenizer, lines, learned


def _from_weights(session: Session, request: PretrainRequest, batches: Batches) -> Start:
    """A host that goes on from weights."""
    loaded = load_model(request.model, request.init, session.recipe.image_size, request.tokenizer)
    if request.sizes or request.vocabulary or session.recipe.dropout is not None:
        raise HarnessError("--init: the weights decide sizes, vocabulary and dropout; leave them out")
    lines = [] if loaded.report is None else loaded.report.lines()
    # What they did not hold may be trained now.
    loaded.model.untrained, loaded.model.absent = loaded.model.absent, frozenset()
    return loaded.model, loaded.tokenizer, lines, loaded.learned


def _afresh(session: Session, request: PretrainRequest, batches: Batches) -> Start:
    """A host with random weights, for the words of its tokenizer."""
    recipe = session.recipe
    changes: dict[str, Any] = request.sizes | {"image_size": recipe.image_size}
    if recipe.dropout is not None:
        changes["dropout"] = recipe.dropout
    tokenizer = _tokenizer(request, host_config(request.model, **changes).text_length, batches)
    if isinstance(tokenizer, TextTokenizer):
        changes |= host_class(request.model).vocabulary_sizes(tokenizer.vocabulary)
    host = build_host(request.model, **changes)
    host.untrained = frozenset(name for name, _ in host.named_parameters(remove_duplicate=False))
    return host, tokenizer, [], None


def _tokenizer(request: PretrainRequest, length: int, batches: Batches) -> Tokenizer:
    """The one named; else the host's own; else the built-in world's words, or on other data a vocabulary built anew."""
    config = host_config(request.model)
    builds = request.vocabulary is not None or (config.tokenizer is None and not are_worlds(request.data))
    if request.tokenizer is not None:
        return open_tokenizer(None, request.out / VOCABULARY_FILE, length, request.tokenizer)
    if config.tokenizer is not None and not builds:
        return HubTokenizer(config.tokenizer, length)
    if builds:
        captions = batches.some_captions(VOCABULARY_CAPTIONS)
        if not captions:
            raise HarnessError("no captions to build a vocabulary from; name one with --tokenizer")
        extra = host_class(request.model).EXTRA_WORDS
        words = build_vocabulary(captions, request.vocabulary or DEFAULT_VOCABULARY, extra)
    else:
        words = world_words(request.model)
    path = request.out / VOCABULARY_FILE
    with main_process_first():
        if distributed.is_main_process():
            write_atomically(path, "".join(f"{word}\n" for word in words).encode())
    return TextTokenizer(path, length)
