"""The cells of a request: methods x ratios x tasks x seeds on one host and one set, each with all it depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from harness.cost.adaptive import mean_macs, ratio_on
from harness.cost.budget import reducer_at_macs
from harness.cost.flops import Counts
from harness.data.digest import data_digest
from harness.data.scene_layout import IMAGE_SIZE as SCENE_SIZE
from harness.data.scenes import scenes_folder
from harness.data.world import WORLD_SEED, WORLDS, world_of
from harness.evaluate.sample import sample_of
from harness.hosts.build import paper_settings
from harness.hosts.facts import PACKAGES, HostFacts, host_facts
from harness.hosts.ready import Host, check_learned, load_host, pick_device, pick_dtype
from harness.hosts.weights.own import file_metadata, stated_method
from harness.hosts.weights.released_files import is_released
from harness.hosts.weights.sets import base_of, start_weights, task_weights, weights_digest
from harness.kit.errors import HarnessError
from harness.kit.kept import Kept
from harness.kit.progress import SILENT, Progress
from harness.kit.provenance import hardware, versions
from harness.kit.registry import methods, module_of, tasks
from harness.kit.sources import code_parts
from harness.reduction import TokenReducer
from harness.reduction.budget import make_reducer
from harness.reduction.plan import Sample
from harness.reduction.schedule import Schedule, parse_schedule
from harness.run.cell import Cell, cell_code, cost_code, resolve_task_options, unique
from harness.run.request import RunRequest
from harness.run.settings import check_methods, variants
from harness.run.suitable import LeftOut, check_protocol, naming, nothing_to_read
from harness.train.protocol import Stage, evaluation_image_size, method_facts, plan_stages, with_method
from harness.train.stage_options import check_stages

WORLD_COUNT = 1000


def plan_cells(request: RunRequest, progress: Progress = SILENT) -> list[Cell]:
    """Every cell of a request, dense first for each task and seed. HarnessError for anything impossible in it.

    Of `--method all` what makes no sense here is left out, each method with a line on stderr. In inference a seed
    changes nothing but what a method draws, so whatever draws nothing has one cell, of the first.
    """
    check_stages(request.protocol, request.training)
    device = pick_device(request.device)
    pick_dtype(request.dtype)
    folder = data_folder(request.data, request.limit, progress)
    shared = {
        "model": request.model,
        "base": base_of(request.model, request.weights) if request.starts else "",
        "protocol": request.protocol,
        "data": request.data,
        "data_digest": data_digest(folder),
        "split": request.split,
        "limit": request.limit,
        "quick": request.quick,
        "device": str(device),
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "dtype": request.dtype,
        "batch_size": request.batch_size,
    }
    budgets = Budgets(request, folder)
    ratios: Sequence[float | None] = request.ratios or (None,)
    check_methods(request.settings, request.methods)
    own = {name: variants(request.settings, name) for name in request.methods if name != "dense"}
    wanted: list[tuple[str, float | None, dict[str, Any]]] = [("dense", 1.0, {})]
    wanted += [(name, ratio, settings) for ratio, name in product(ratios, own) for settings in own[name]]
    cells, left_out = [], LeftOut(request.model, len(ratios), len(request.tasks))
    with progress.bar("settings", len(request.tasks) * len(request.seeds) * len(wanted)) as bar:
        for task, seed in product(request.tasks, request.seeds):
            if seed == request.seeds[0] or request.protocol != "inference":  # without training seeds share the rest
                stages = stages_of(request, task, seed)
                host = planned_host(request, task, stages)
                weights = measured_weights(request, task) if request.starts else None
                of_task = shared | {
                    "task": task,
                    "task_options": resolve_task_options(task, request.task_options),
                    "weights": "" if weights is None else weights_digest(request.model, weights, request.tokenizer),
                    "image_size": evaluated_size(request, host, stages),
                }
            about = of_task | {"seed": seed}
            for method, ratio, settings in wanted:
                bar.advance()
                if seed != request.seeds[0] and not stages and not draws(method, settings):
                    continue
                reason = None
                if request.every_method:
                    reason = nothing_to_read(method, host.shape, task, request.protocol)
                try:
                    cells += [_cell(about, budgets, host, stages, method, ratio, settings)] if reason is None else []
                except HarnessError as error:
                    if method == "dense" or not request.every_method:
                        raise
                    reason = str(error)
                if reason is not None:
                    left_out.note(method, ratio, task, reason)
    left_out.tell(sum(cell.method != "dense" for cell in cells))
    return unique(cells)


def stages_of(request: RunRequest, task: str, seed: int) -> list[Stage]:
    """The stages of training that the request's protocol has for a task; none for inference."""
    return plan_stages(
        request.protocol,
        request.model,
        task,
        weights=request.weights,
        data=request.data,
        image_size=request.image_size,
        seed=seed,
        device=request.device,
        given=request.training,
    )


def measured_weights(request: RunRequest, task: str) -> Path:
    """The file that a task is done with, or that its fine-tuning starts from."""
    if request.protocol == "inference":
        return task_weights(request.model, request.weights, task)
    return start_weights(request.model, request.weights)


def planned_host(request: RunRequest, task: str, stages: Sequence[Stage] = ()) -> HostFacts:
    """What is known of the host in which the method works, at its weights' sizes: in training where there is some."""
    if stages:
        return method_facts(stages)
    return host_facts(request.model, request.image_size, measured_weights(request, task))


def evaluated_size(request: RunRequest, host: HostFacts, stages: Sequence[Stage]) -> int:
    """The image size of evaluation, in training that of the last stage, else the host's; HarnessError where the
    built-in world has no such images.
    """
    size = evaluation_image_size(stages, request.image_size) if stages else host.image_size
    if world_of(request.data) is not None and size != SCENE_SIZE:
        raise HarnessError(f"image size {size}: scenes are drawn, and told of, at {SCENE_SIZE} pixels")
    return size


def draws(method: str, settings: Mapping[str, Any]) -> bool:
    """Whether a method draws at random by the cell's seed: it has a setting `seed`, and that is not given."""
    return "seed" in methods.get(method).Config.model_fields and "seed" not in settings


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
                counted = _as_drawn(self._counted(task)) if adaptive else None
                reducer = reducer_at_macs(
                    method, host.vision, ratio, schedule, settings, match=request.match, counted=counted
                )
            else:
                measured = _as_drawn(self._measured(task)) if adaptive and ratio is not None else None
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
        code = cost_code(host.name, method) if macs else code_parts("harness.reduction.budget", *modules)
        return {
            "method": method,
            "ratio": ratio,
            "schedule": None if shape is None else shape.model_dump(mode="json"),
            "settings": settings,
            "match": self.request.match,
            "shape": str(host.shape),
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
        return lambda reducer: on_images(host.with_learned(reducer))

    def _counted(self, task: str) -> Callable[[TokenReducer[Any]], Counts]:
        """The MACs of a reducer on images of the set, in the host with its weights."""
        host, sample = self.on_images(task)
        train_step = self.request.match == "train-macs"
        return lambda reducer: mean_macs(host.model.vision, host.with_learned(reducer), sample, train_step=train_step)

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


def _cell(
    about: dict[str, Any],
    budgets: Budgets,
    host: HostFacts,
    stages: Sequence[Stage],
    method: str,
    ratio: float | None,
    settings: Mapping[str, Any],
) -> Cell:
    dense, request = method == "dense", budgets.request
    config = budgets.config(host, method, ratio, about["task"], about["seed"], settings)
    whose = (about["model"], method, about["task"])
    with naming(method):
        trained = tuple(with_method(stages, method, config, ratio))
    return Cell(
        **about,
        method=method,
        config=config,
        ratio=ratio,
        training=trained,
        schedule="paper" if dense else _spec(request.schedule),
        match="tokens" if dense else request.match,
        code=budgets.code(*whose, trained, about["data"], about["data_digest"]),
    )


def _spec(schedule: Any) -> str:
    if schedule is None:
        return "paper"
    return schedule if isinstance(schedule, str) else Schedule.model_validate(schedule).spec()


def data_folder(data: str, limit: int | None, progress: Progress = SILENT) -> Path:
    """The folder of a data set, or one annotation file of it; the built-in world is made where it is not there yet."""
    world = world_of(data)
    if world is not None:
        return scenes_folder(max(WORLD_COUNT, limit or 0), WORLD_SEED, progress=progress, world=world)
    path = Path(data)
    if not path.exists():
        raise HarnessError(
            f"data {data!r}: no such folder or file; name one, or a built-in world, {' or '.join(WORLDS)}"
        )
    return path


def _as_drawn(measure: Callable[[TokenReducer[Any]], Any]) -> Callable[[TokenReducer[Any]], Any]:
    """What a reducer measures: one that learns as it is drawn from seed 0, whatever was drawn before it."""

    def measured(reducer: TokenReducer[Any]) -> Any:
        if reducer.learns:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                reducer = type(reducer)(reducer.config, reducer.shape)
        return measure(reducer)

    return measured
