"""The cells of a request: methods x ratios x tasks x seeds on one host and one set, each with all it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from harness.data.digest import data_digest
from harness.data.scene_layout import IMAGE_SIZE as SCENE_SIZE
from harness.data.scenes import scenes_folder
from harness.data.world import WORLD_SEED, WORLDS, world_of
from harness.hosts.facts import HostFacts, host_facts
from harness.hosts.parts.tokenizer import open_tokenizer
from harness.hosts.ready import pick_device, pick_dtype
from harness.hosts.weights.sets import base_of, weights_digest
from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT, Progress
from harness.kit.provenance import hardware
from harness.reduction.schedule import Schedule
from harness.run.budgets import Budgets, draws, measured_weights
from harness.run.cell import Cell, resolve_task_options, unique
from harness.run.request import RunRequest
from harness.run.settings import check_methods, variants
from harness.run.suitable import LeftOut, naming, nothing_to_read
from harness.train.protocol import Stage, evaluation_image_size, method_facts, plan_stages, with_method
from harness.train.stage_options import check_stages

WORLD_COUNT = 1000
ANY_LENGTH = 64


def plan_cells(request: RunRequest, progress: Progress = SILENT) -> list[Cell]:
    """Every cell of a request, dense first for each task and seed. HarnessError for anything impossible in it.

    Of `--method all` what makes no sense here is left out, each method with a line on stderr. In inference a seed
    changes nothing but what a method draws, so whatever draws nothing has one cell, of the first.
    """
    check_stages(request.protocol, request.training)
    device = pick_device(request.device)
    pick_dtype(request.dtype)
    folder = data_folder(request.data, request.limit, progress)
    shared = _of_all_cells(request, folder, device)
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
    if request.tokenizer is not None:
        open_tokenizer(None, Path(), ANY_LENGTH, request.tokenizer)  # before the first cell, where it cannot be read
    left_out.tell(sum(cell.method != "dense" for cell in cells))
    return by_training(unique(cells))


def by_training(cells: Sequence[Cell]) -> list[Cell]:
    """Cells as they come, but those whose weights are trained: a seed after the other, the tasks of one training
    together, so that what is finished when a long study stops can be compared.
    """

    def training(cell: Cell) -> tuple[Any, ...]:
        return cell.seed, cell.method, cell.ratio, cell.schedule, repr(cell.config)

    first: dict[tuple[Any, ...], int] = {}
    for place, cell in enumerate(cells):
        first.setdefault(training(cell) if cell.training else (), place)
    return sorted(cells, key=lambda cell: (cell.seed, first[training(cell)]) if cell.training else (0, 0))


def _of_all_cells(request: RunRequest, folder: Path, device: torch.device) -> dict[str, Any]:
    """What all cells of a request share."""
    return {
        "model": request.model,
        "base": base_of(request.model, request.weights) if request.starts else "",
        "protocol": request.protocol,
        "data": request.data,
        "data_digest": data_digest(folder),
        "split": request.split,
        "limit": request.limit,
        "quick": request.quick,
        "device": str(device),
        "hardware": None if request.any_machine else hardware(device),
        "threads": None if request.any_machine else torch.get_num_threads(),
        "dtype": request.dtype,
        "batch_size": request.batch_size,
    }


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
        raise HarnessError(f"image size {size}: scenes are drawn, and their captions written, for {SCENE_SIZE} pixels")
    return size


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
