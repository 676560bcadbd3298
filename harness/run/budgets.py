"""The settings of methods at the budgets of a request: on counts alone, of adaptive methods on images of the set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from harness.cost.adaptive import mean_macs, ratio_on
from harness.cost.budget import reducer_at_macs
from harness.cost.flops import Counts
from harness.evaluate.sample import sample_of
from harness.hosts.build import paper_settings
from harness.hosts.facts import PACKAGES, HostFacts
from harness.hosts.ready import Host, check_learned, load_host
from harness.hosts.weights.own import file_metadata, stated_method
from harness.hosts.weights.released_files import is_released
from harness.hosts.weights.sets import start_weights, task_weights
from harness.kit.errors import HarnessError
from harness.kit.kept import Kept
from harness.kit.provenance import versions
from harness.kit.registry import methods, module_of, tasks
from harness.kit.sources import code_parts
from harness.reduction import TokenReducer
from harness.reduction.budget import make_reducer
from harness.reduction.plan import Sample
from harness.reduction.schedule import parse_schedule
from harness.reduction.stack import VISION
from harness.run.cell import cell_code, cost_code
from harness.run.request import RunRequest
from harness.run.suitable import check_protocol, naming
from harness.train.protocol import Stage


def measured_weights(request: RunRequest, task: str) -> Path:
    """The file that a task is done with, or that its fine-tuning starts from."""
    if request.protocol == "inference":
        return task_weights(request.model, request.weights, task)
    return start_weights(request.model, request.weights)


def draws(method: str, settings: Mapping[str, Any]) -> bool:
    """Whether a method draws at random by the cell's seed: it has a setting `seed`, and that is not given."""
    return "seed" in methods.get(method).Config.model_fields and "seed" not in settings


def as_drawn(reducer: TokenReducer[Any]) -> TokenReducer[Any]:
    """The reducer; one that learns as seed 0 draws it, so that a plan does not depend on what was drawn before it."""
    if not reducer.learns:
        return reducer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return type(reducer)(reducer.config, reducer.shape)


class Budgets:
    """The settings of methods at the ratios of a request, solved once for each tower; adaptive ones on real images."""

    def __init__(self, request: RunRequest, folder: Path) -> None:
        self.request, self.folder = request, folder
        self._solved: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._impossible: dict[tuple[Any, ...], HarnessError] = {}
        self._samples: dict[str, tuple[Host, Sample]] = {}
        self._kept = Kept("budgets")
        self._codes: dict[tuple[str, str, str], dict[str, str]] = {}

    def code(
        self, model: str, method: str, task: str, stages: Sequence[Stage], data: str, digest: str
    ) -> dict[str, str]:
        """`cell_code`, found once where nothing is trained."""
        if stages:
            return cell_code(model, method, task, stages, data, digest)
        if (model, method, task) not in self._codes:
            self._codes[model, method, task] = cell_code(model, method, task, stages, data, digest)
        return self._codes[model, method, task]

    def config(
        self, host: HostFacts, method: str, ratio: float | None, task: str, seed: int, chosen: Mapping[str, Any]
    ) -> dict[str, Any]:
        """A method's resolved config; `chosen`: its settings that were asked for.

        HarnessError, which names the method, for budgets it has not, and for one that learns without weights.
        """
        adaptive = methods.get(method).adaptive
        drawn = {"seed": seed} if draws(method, chosen) else {}
        # How many tokens a method with fixed counts keeps does not depend on what it draws.
        given, own = ({**chosen, **drawn}, (task,)) if adaptive else ({**chosen}, ())
        key = (method, ratio, str(given), str(host.shape), *own)
        with naming(method):
            if key in self._impossible:
                raise self._impossible[key]
            if key not in self._solved:
                self._solved[key] = self._solve(host, method, ratio, task, given, bool(chosen), key)
        return self._solved[key] | drawn

    def _solve(
        self,
        host: HostFacts,
        method: str,
        ratio: float | None,
        task: str,
        given: dict[str, Any],
        chosen: bool,
        key: tuple[Any, ...],
    ) -> dict[str, Any]:
        if method == "dense":
            return make_reducer("dense", host.shape).config.model_dump(mode="json")
        request = self.request
        check_protocol(method, request.protocol)
        learned = self._learned(task)
        own = learned is not None and learned[0] == method
        if learned is not None and own and not (ratio or chosen or request.schedule):
            return dict(learned[1])
        adaptive = methods.get(method).adaptive
        settings, schedule = paper_settings(request.model, method, request.schedule, given, host.paper)
        if adaptive and not own and request.protocol == "inference":
            # Before a search over images that ends in the same refusal.
            as_set = make_reducer(method, host.shape, schedule=schedule, settings=settings)
            if as_set.learns:
                check_learned(method, as_set.config.model_dump(mode="json"), learned)

        def solved() -> dict[str, Any]:
            if request.match != "tokens" and ratio is not None:
                counted = self._counted(task) if adaptive else None
                reducer = reducer_at_macs(
                    method, host.vision, ratio, schedule, settings, match=request.match, counted=counted
                )
            else:
                measured = self._measured(task) if adaptive and ratio is not None else None
                reducer = make_reducer(
                    method, host.shape, ratio=ratio, schedule=schedule, settings=settings, measured=measured
                )
            return {"config": reducer.config.model_dump(mode="json"), "learns": reducer.learns}

        try:
            made = (
                solved() if adaptive else self._kept.value(self._key(host, method, ratio, schedule, settings), solved)
            )
        except HarnessError as error:
            self._impossible[key] = error
            raise
        config: dict[str, Any] = made["config"]
        if made["learns"] and request.protocol == "inference":
            check_learned(method, config, learned)
        return config

    def _key(
        self, host: HostFacts, method: str, ratio: float | None, schedule: Any, settings: dict[str, Any]
    ) -> dict[str, Any]:
        """All that the setting of a method with fixed counts follows from."""
        shape, macs = parse_schedule(schedule), self.request.match != "tokens"
        fields = methods.get(method).Config.model_fields
        compared = [settings.get("like", fields["like"].default)] if "like" in fields else []
        modules = [module_of(methods, name) for name in (method, *compared)]
        own_stack = all(methods.get(name).stacks == VISION for name in (method, *compared))
        code = cost_code(host.name, method) if macs else code_parts("harness.reduction.budget", *modules)
        return {
            "method": method,
            "ratio": ratio,
            "schedule": None if shape is None else shape.model_dump(mode="json"),
            "settings": settings,
            "match": self.request.match,
            # Towers alike have one budget, whatever their host is called and has beside them.
            "shape": str(replace(host.shape, name="", beside={}) if own_stack else host.shape),
            "sizes": host.config if macs else None,
            "code": dict(code) | dict(code_parts(*modules)),
            "packages": versions(*PACKAGES),
        }

    def _learned(self, task: str) -> tuple[str, dict[str, Any]] | None:
        """The method that learned with the weights of a task, as their file states it."""
        if self.request.protocol == "pretrain":
            return None
        path = measured_weights(self.request, task)
        return None if is_released(path) else stated_method(file_metadata(path), path)

    def _measured(self, task: str) -> Callable[[TokenReducer[Any]], float]:
        """The token ratio of a reducer on images of the set, in the host with its weights."""
        from harness.hosts.parts.towers import open_tower

        host, sample = self.on_images(task)
        on_images = ratio_on(open_tower(host.model.vision), sample)
        return lambda reducer: on_images(host.with_learned(as_drawn(reducer)))

    def _counted(self, task: str) -> Callable[[TokenReducer[Any]], Counts]:
        """The MACs of a reducer on images of the set, in the host with its weights."""
        host, sample = self.on_images(task)
        vision, train_step = host.model.vision, self.request.match == "train-macs"
        return lambda reducer: mean_macs(vision, host.with_learned(as_drawn(reducer)), sample, train_step=train_step)

    def on_images(self, task: str) -> tuple[Host, Sample]:
        """The host with the weights of a task, and images of its set; HarnessError where there are no weights yet."""
        request = self.request
        if request.protocol == "pretrain":
            raise HarnessError("protocol pretrain: an adaptive method needs trained weights to be measured on")
        if task not in self._samples:
            weights = measured_weights(request, task)
            where = request.device, request.dtype
            host = load_host(request.model, weights, *where, request.image_size, request.tokenizer)
            annotations = tasks.get(task)().load(self.folder, request.limit, request.split).in_order()
            self._samples[task] = host, sample_of(host, annotations)
        return self._samples[task]
