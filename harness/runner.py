"""Cells to records: plan a request, run what is not there yet, keep failures as records, compare with dense."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from harness.cell import (
    Cell,
    RunRequest,
    check_choices,
    file_digest,
    folder_digest,
    method_digest,
    resolve_task_options,
    unique,
)
from harness.cost.budget import reducer_at_macs
from harness.cost.report import cost_report
from harness.data.scene_layout import IMAGE_SIZE as SCENE_SIZE
from harness.data.scenes import BUILT_IN_WORLD, scenes_folder
from harness.data.transforms import load_images
from harness.environment import environment, hardware
from harness.errors import HarnessError
from harness.evaluation import VisionEncoder
from harness.hosts import Host, load_host, pick_device, pick_dtype
from harness.methods import make_reducer
from harness.models.build import paper_settings, skeleton
from harness.models.checkpoints import find_weights, stated_sizes, weights_file
from harness.models.host import HostModel
from harness.models.towers import open_tower
from harness.progress import SILENT, Progress
from harness.reduction import TokenReducer
from harness.registry import methods, tasks
from harness.schedule import Schedule
from harness.stats import quality
from harness.store import Store
from harness.task import Outcome, TaskData

WORLD_COUNT = 1000
WORLD_SEED = 0


def plan_cells(request: RunRequest, progress: Progress = SILENT) -> list[Cell]:
    """Every cell of a request, dense first for each task. Raises HarnessError for anything impossible in it."""
    check_choices(request.protocol, request.match)
    device = pick_device(request.device)
    pick_dtype(request.dtype)
    host = planned_host(request)
    shape = open_tower(host.vision).shape
    if request.data == BUILT_IN_WORLD and host.config.image_size != SCENE_SIZE:
        raise HarnessError(
            f"image size {host.config.image_size}: scenes are drawn, and told of, at {SCENE_SIZE} pixels"
        )
    folder = data_folder(request.data, request.limit, progress)
    weights = file_digest(weights_of(request))
    shared = {
        "model": request.model,
        "weights": weights,
        "protocol": request.protocol,
        "data": request.data,
        "data_digest": folder_digest(folder),
        "limit": request.limit,
        "device": str(device),
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "dtype": request.dtype,
        "batch_size": request.batch_size,
        "image_size": host.config.image_size,
        "seed": request.seed,
    }
    cells = []
    ratios: Sequence[float | None] = request.ratios or (None,)
    reduced = [method for method in request.methods if method != "dense"]
    with progress.bar("settings", len(request.tasks) * len(ratios) * len(reduced)) as bar:
        for task in request.tasks:
            about = {**shared, "task": task, "task_options": resolve_task_options(task, request.task_options)}
            dense = make_reducer("dense", shape)
            cells.append(_cell(about, "dense", dense, 1.0, "paper", "tokens"))
            for ratio, method in product(ratios, reduced):
                given = {**_seeded(method, request.seed), **request.settings}
                settings, schedule = paper_settings(request.model, method, request.schedule, given)
                if request.match == "macs" and ratio is not None:
                    reducer = reducer_at_macs(method, host.vision, ratio, schedule, settings)
                else:
                    reducer = make_reducer(method, shape, ratio=ratio, schedule=schedule, settings=settings)
                cells.append(_cell(about, method, reducer, ratio, _spec(request.schedule), request.match))
                bar.advance()
    return unique(cells)


def weights_of(request: RunRequest) -> Path:
    """The file of weights that a request is about."""
    return weights_file(request.model) if request.weights is None else find_weights(request.weights)


def planned_host(request: RunRequest) -> HostModel:
    """The request's host at the sizes of its weights, without them."""
    return skeleton(request.model, request.image_size, stated_sizes(request.model, weights_of(request)))


def _cell(
    about: dict[str, Any],
    method: str,
    reducer: TokenReducer[Any],
    ratio: float | None,
    schedule: str,
    match: str,
) -> Cell:
    config = reducer.config.model_dump(mode="json")
    return Cell(
        **about,
        method=method,
        config=config,
        ratio=ratio,
        schedule=schedule,
        match=match,
        code=method_digest(method),
    )


def _seeded(method: str, seed: int) -> dict[str, Any]:
    return {"seed": seed} if "seed" in methods.get(method).Config.model_fields else {}


def _spec(schedule: Any) -> str:
    if schedule is None:
        return "paper"
    return schedule if isinstance(schedule, str) else Schedule.model_validate(schedule).spec()


def data_folder(data: str, limit: int | None, progress: Progress = SILENT) -> Path:
    """The folder of a data set; the built-in world is made in the cache when it is not there yet."""
    if data == BUILT_IN_WORLD:
        return scenes_folder(max(WORLD_COUNT, limit or 0), WORLD_SEED, progress=progress)
    folder = Path(data)
    if not folder.is_dir():
        raise HarnessError(f"data {data!r}: no such folder; name one, or 'scenes' for the built-in world")
    return folder


@dataclass
class Bench:
    """What the cells of one command share: the loaded host, the loaded sets, and costs already counted."""

    weights: Path | None
    progress: Progress

    def __post_init__(self) -> None:
        self.host: Callable[[str, str, str, int], Host] = cache(
            lambda model, device, dtype, image_size: load_host(model, self.weights, device, dtype, image_size)
        )
        self._data: dict[tuple[Any, ...], TaskData] = {}
        self._costs: dict[tuple[Any, ...], dict[str, Any]] = {}

    def prepare(self, cell: Cell) -> None:
        """Load what the cell needs; HarnessError when the weights, the size or the data cannot be used."""
        try:
            self.data(cell, self.host(cell.model, cell.device, cell.dtype, cell.image_size))
        except Exception as error:
            if not is_out_of_memory(error):
                raise  # Memory that runs out here runs out in the cell too, and is recorded there.

    def data(self, cell: Cell, host: Host) -> TaskData:
        """Annotations and pixels for a cell."""
        key = (cell.task, cell.data, cell.limit, cell.image_size)
        if key not in self._data:
            task = tasks.get(cell.task)()
            annotations = task.load(data_folder(cell.data, cell.limit, self.progress), cell.limit)
            images = load_images(annotations.images, cell.image_size, host.model.config.mean, host.model.config.std)
            self._data[key] = TaskData(annotations, images)
        return self._data[key]

    def cost(self, cell: Cell, host: Host) -> dict[str, Any]:
        """The cost of the cell's tower, on the cell's device, with latency."""
        key = (cell.model, cell.method, str(cell.config), cell.device, cell.dtype, cell.batch_size)
        if key not in self._costs:
            self._costs[key] = cost_report(
                host.model.vision,
                cell.method,
                settings=cell.config,
                batch_size=cell.batch_size,
                latency=True,
                device=cell.device,
                dtype=host.dtype,
                name=cell.model,
                progress=self.progress,
            )
        return dict(self._costs[key])

    def run(self, cell: Cell) -> tuple[dict[str, Any], pd.DataFrame]:
        """Measure one cell: the record without its deltas, and the per-sample outcomes."""
        started, clock = datetime.now(UTC), time.perf_counter()
        torch.manual_seed(cell.seed)
        host = self.host(cell.model, cell.device, cell.dtype, cell.image_size)
        reducer = rebuild(cell, host).to(host.device)
        data = self.data(cell, host)
        encoder = VisionEncoder(host, reducer, data.images, cell.batch_size, self.progress)
        task = tasks.get(cell.task)()
        with torch.no_grad():
            before = time.perf_counter()
            outcome: Outcome = task.evaluate(encoder, data, task.Options.model_validate(cell.task_options))
            seconds = time.perf_counter() - before
        cost = self.cost(cell, host)
        cost["encodings"] = encodings(encoder, cost)
        diagnostics = {
            **outcome.diagnostics,
            "fallback": type(reducer).without_text if encoder.text_guided else None,
            "evaluation_seconds": round(seconds, 3),
        }
        record = {
            **skeleton_record(cell),
            "status": "done",
            "cost": cost,
            "diagnostics": diagnostics,
            "run": environment(cell, started, time.perf_counter() - clock),
        }
        return record, outcome.frame()


def rebuild(cell: Cell, host: Host) -> TokenReducer[Any]:
    """The reducer of a cell from its resolved config."""
    kind = methods.get(cell.method)
    return kind(kind.Config.model_validate(cell.config), open_tower(host.model.vision).shape)


def encodings(encoder: VisionEncoder, cost: dict[str, Any]) -> dict[str, Any]:
    """How many images and image-text pairs the tower encoded, and what that cost beside dense's one pass per image."""
    forward, dense = cost["forward"]["total_gmacs"], cost["dense"]["forward_gmacs"]
    without_text = dense if encoder.text_guided else forward
    total = encoder.encoded_images * without_text + encoder.encoded_pairs * forward
    images = len(encoder.images)
    return {
        "images": encoder.encoded_images,
        "pairs": encoder.encoded_pairs,
        "gmacs_total": round(total, 4),
        "dense_gmacs_total": round(images * dense, 4),
    }


def skeleton_record(cell: Cell) -> dict[str, Any]:
    """The parts of a record that every status has."""
    return {
        "format": 1,
        "key": cell.key,
        "spec": cell.model_dump(mode="json"),
        "status": "failed",
        "error": None,
        "cost": None,
        "quality": {},
        "diagnostics": {},
        "run": {},
        "samples": None,
    }


OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY_WORDS)


def run_cells(cells: Sequence[Cell], store: Store, bench: Bench, *, force: bool = False) -> list[dict[str, Any]]:
    """Run the cells that have no record yet; returns all their records in the cells' order.

    A cell that fails or runs out of memory becomes a record of that status and the run goes on; a save that fails,
    and Ctrl-C, end the run with the records so far kept.
    """
    store.prepare()
    kept = {} if force else {cell.key: store.find(cell.key) for cell in cells}
    for cell in cells:
        if kept.get(cell.key) is None:
            bench.prepare(cell)
    records = []
    dense: dict[str, dict[str, Any]] = {}
    for number, cell in enumerate(cells, 1):
        record = kept.get(cell.key)
        bench.progress.say(f"[{number}/{len(cells)}] {cell.label}{' (kept)' if record else ''}")
        reference = dense.get(cell.task)
        if record is None:
            record = _measure(cell, store, bench, reference)
        elif _lacks_deltas(record) and reference is not None and reference["status"] == "done":
            # Dense had failed when this cell ran: compare now.
            found = quality(store.samples(record), store.samples(reference))
            record = store.save({**record, "quality": found}, store.samples(record))
        if cell.method == "dense":
            dense[cell.task] = record
        records.append(record)
    return records


def _lacks_deltas(record: dict[str, Any]) -> bool:
    figures = [metric for task in record["quality"].values() for metric in task.values()]
    return record["spec"]["method"] != "dense" and any(metric["delta_to_dense"] is None for metric in figures)


def _measure(cell: Cell, store: Store, bench: Bench, dense: dict[str, Any] | None) -> dict[str, Any]:
    """Run a cell, compare it with dense, and save its record whatever came of it."""
    try:
        record, samples = bench.run(cell)
        compared = cell.method != "dense" and dense is not None and dense["status"] == "done"
        record["quality"] = quality(samples, store.samples(dense) if compared and dense else None)
    except Exception as error:  # noqa: BLE001 - a cell that fails is a record too, and the command ends with status 1
        status = "out_of_memory" if is_out_of_memory(error) else "failed"
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        where = None if isinstance(error, HarnessError) else traceback.format_exc()
        record = {
            **skeleton_record(cell),
            "status": status,
            "error": line,
            "traceback": where,
            "run": environment(cell, datetime.now(UTC), 0.0),
        }
        return store.save(record, None)
    return store.save(record, samples)
