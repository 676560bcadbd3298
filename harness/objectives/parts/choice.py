"""Objectives by their names, alone or as a weighted sum: their settings, where their batches come from, the module."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.hosts.build import split_name
from harness.hosts.host import HostModel
from harness.hosts.parts.tokenizer import Specials
from harness.kit import distributed
from harness.kit.errors import HarnessError
from harness.kit.registry import Registry, downstream, methods, module_of, objectives, unknown
from harness.kit.settings import validated
from harness.objectives.parts.batches import Asked, Batches
from harness.objectives.parts.objective import Objective, ObjectiveConfig
from harness.objectives.parts.recipe import Recipe
from harness.objectives.parts.weighted import WeightedSum
from harness.reduction import TokenReducer

Settings = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Term:
    """One objective of a sum: what it is called, its weight, its class and its settings."""

    name: str
    weight: float
    kind: type[Objective[Any]]
    config: ObjectiveConfig


@dataclass(frozen=True)
class Choice:
    """The objectives that a run minimises, in the order they were named; they take the same batches."""

    terms: tuple[Term, ...]
    registry: Registry

    @property
    def name(self) -> str:
        """As it was asked for, weights of 1 left out: albef, or albef+0.5*uta."""
        return "+".join(term.name if term.weight == 1 else f"{term.weight:g}*{term.name}" for term in self.terms)

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that the objectives are defined in."""
        return tuple(module_of(self.registry, term.name) for term in self.terms)

    def settings(self) -> dict[str, Any]:
        """Every field of each objective's settings, by its name; an objective without any has no entry."""
        dumps = {term.name: term.config.model_dump(mode="json") for term in self.terms}
        return {name: fields for name, fields in dumps.items() if fields}

    @property
    def leaves_unused(self) -> bool:
        """Whether trained parameters may be left without a gradient."""
        return any(term.kind.LEAVES_UNUSED for term in self.terms)

    @property
    def from_random(self) -> bool:
        """Whether training begins from random weights unless a start is named."""
        return any(term.kind.FROM_RANDOM for term in self.terms)

    def batches(self, asked: Asked) -> Batches:
        """Where the batches come from."""
        first = self.terms[0]
        return first.kind.batches(asked, first.config)

    def check_host(self, host: HostModel) -> None:
        """HarnessError, one line, for a host that lacks what an objective needs; it needs no weights."""
        for term in self.terms:
            term.kind.check_host(host)

    def check_method(self, method: str) -> None:
        """HarnessError, one line, for a method that needs a momentum tower where an objective offers none."""
        if methods.get(method).needs_momentum:
            self._check_momentum(method)

    def _check_momentum(self, method: str) -> None:
        for term in self.terms:
            if not term.kind.MOMENTUM:
                raise HarnessError(
                    f"method {method} selects by the class attention of a momentum tower, and objective {term.name} "
                    "offers none; take --objective albef or blip (or retrieval, in fine-tuning these)"
                )

    def make(self, host: HostModel, reducer: TokenReducer[Any], specials: Specials, recipe: Recipe) -> Objective[Any]:
        """The module that is trained.

        HarnessError for a host that lacks what an objective needs, and for a batch too small for it.
        """
        self.check_host(host)
        if reducer.needs_momentum:
            self._check_momentum(type(reducer).__name__)
        least = max(term.kind.LEAST_PAIRS for term in self.terms)
        processes = distributed.world() if recipe.negatives == "global" else 1
        if recipe.batch_size * processes < least:
            raise HarnessError(
                f"batch size {recipe.batch_size}: a pair is contrasted with the others of its batch; expected at least "
                f"{least} pairs"
            )
        made = [term.kind(host, reducer, specials, recipe, term.config) for term in self.terms]
        weights = {term.name: term.weight for term in self.terms}
        objective = made[0] if list(weights.values()) == [1.0] else WeightedSum(made, weights)
        objective.prepare()
        return objective


def choose(model: str, objective: str | None = None, settings: Settings | None = None) -> Choice:
    """The pre-training objectives asked for, as NAME or NAME+WEIGHT*NAME; left out: the one of the host's own family.

    HarnessError for unknown names, settings that are none, and objectives that need different batches.
    """
    family = split_name(model)[0]
    if objective is None and family not in objectives.entries():
        raise HarnessError(f"model {model}: no objective of its own; name one of {', '.join(objectives.names())}")
    weights = _weights(objective or family)
    return _choice(objectives, weights, settings or {})


def choose_downstream(model: str, task: str, settings: Mapping[str, Any] | None = None) -> Choice:
    """The objective that fine-tunes a host on a task: its family's own where there is one, else the task's.

    HarnessError for a task that nothing is fine-tuned on, or not in this family.
    """
    own, known = f"{task}_{split_name(model)[0]}", downstream.entries()
    name = own if own in known else task
    if name not in known and any(other.startswith(f"{task}_") for other in known):
        raise HarnessError(f"model {model}: nothing to minimise for {task}; write objectives/downstream/{own}.py")
    if name not in known:
        raise unknown("task", task, {other.partition("_")[0] for other in known})
    return _choice(downstream, {name: 1.0}, {name: settings or {}})


def make_objective(
    model: str, host: HostModel, reducer: TokenReducer[Any], specials: Specials, recipe: Recipe
) -> Objective[Any]:
    """A host's own pre-training objective; HarnessError as of `choose` and `Choice.make`."""
    return choose(model).make(host, reducer, specials, recipe)


def _weights(words: str) -> dict[str, float]:
    """{'albef': 1.0, 'uta': 0.5} from 'albef+0.5*uta'."""
    weights: dict[str, float] = {}
    for word in words.split("+"):
        weight, star, name = word.rpartition("*")
        try:
            value = float(weight) if star else 1.0
        except ValueError:
            value = 0.0
        if not 0 < value < math.inf:
            raise HarnessError(f"--objective {words}: {weight!r} is no weight; write one above 0, as 0.5*{name}")
        weights[name.strip()] = value
    if len(weights) < words.count("+") + 1:
        raise HarnessError(f"--objective {words}: names one objective twice; give it one weight")
    return weights


def _choice(registry: Registry, weights: Mapping[str, float], settings: Settings) -> Choice:
    for name in settings:
        if name not in weights:
            raise HarnessError(f"--set-objective {name}: not among the objectives asked for, {', '.join(weights)}")
    terms = []
    for name, weight in weights.items():
        kind = registry.get(name)
        config = validated(kind.Config, settings.get(name, {}), f"objective {name}")
        terms.append(Term(name, weight, kind, config))
    first = terms[0]
    for term in terms[1:]:
        if not first.kind.same_batches(term.kind):
            raise HarnessError(
                f"objectives {first.name} and {term.name}: need different batches; train with one of them"
            )
    return Choice(tuple(terms), registry)
