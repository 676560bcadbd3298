"""What the cells of one command share (loaded hosts, sets, counted costs), and the measuring of one of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from harness.cell import Cell
from harness.cost.report import cost_report
from harness.data.image_store import ImageStore
from harness.data.scenes import cache_folder
from harness.environment import environment
from harness.evaluation import VisionEncoder
from harness.grid import data_folder
from harness.hosts import Host, load_host
from harness.methods import make_reducer
from harness.models.build import build_host, host_config
from harness.models.host import HostConfig
from harness.models.towers import open_tower
from harness.models.weight_sets import task_weights
from harness.parallel import agreed
from harness.progress import Progress
from harness.ranks import rank
from harness.reduction import TokenReducer
from harness.registry import methods, tasks
from harness.task import Outcome, TaskData
from harness.timing import Throughput
from harness.train.stages import trained

BLANK = "blank_images"


class Bench:
    """The hosts, sets and costs of one command's cells. `weights`: the file or folder named, None for those shipped."""

    def __init__(self, weights: Path | None, progress: Progress) -> None:
        self.weights, self.progress = weights, progress
        self._load: Callable[..., Host] = cache(load_host)
        self._data: dict[tuple[Any, ...], TaskData] = {}
        self._costs: dict[tuple[Any, ...], dict[str, Any]] = {}

    def prepare(self, cell: Cell) -> None:
        """Load what the cell needs; HarnessError when the weights, the size or the data cannot be used."""
        try:
            config = agreed(partial(self._config, cell))
            agreed(partial(self._set, cell, config)).images.ready(self.progress)
        except Exception as error:
            if not is_out_of_memory(error):
                raise  # Memory that runs out here runs out in the cell too, and is recorded there.

    def run(self, cell: Cell) -> tuple[dict[str, Any], pd.DataFrame]:
        """Measure one cell: the record without its deltas, and the per-sample outcomes.

        Of several processes each evaluates its share and has all outcomes; the first alone measures costs.
        """
        started, clock = datetime.now(UTC), time.perf_counter()
        weights, training = self._weights(cell)
        torch.manual_seed(cell.seed)
        host = agreed(partial(self._host, cell, weights))
        reducer = evaluated_reducer(cell, host).to(host.device)
        data = agreed(partial(self._set, cell, host.model.config))
        before = time.perf_counter()
        encoder, outcome = agreed(partial(self._evaluated, cell, host, reducer, data))
        seconds = time.perf_counter() - before
        blind = agreed(partial(self._blind, cell, host, reducer, data))
        frame = outcome.frame()
        record = {**skeleton_record(cell), "status": "done"}
        if rank() > 0:
            return record, frame
        cost = self._cost(cell, host)
        cost["encodings"] = encodings(encoder, cost)
        fallback = type(reducer).without_text if encoder.text_guided else None
        record |= {
            "cost": cost,
            "diagnostics": {**outcome.diagnostics, "fallback": fallback},
            "throughput": speeds(outcome.throughput, seconds),
            "blind": blind,
            "trained": training,
            "run": environment(cell, started, time.perf_counter() - clock),
        }
        return record, frame

    def _config(self, cell: Cell) -> HostConfig:
        if cell.training:
            return host_config(cell.model)
        config: HostConfig = self._host(cell, self._shipped(cell)).model.config
        return config

    def _shipped(self, cell: Cell) -> Path:
        return task_weights(cell.model, self.weights, cell.task)

    def _weights(self, cell: Cell) -> tuple[Path, list[dict[str, Any]]]:
        """The weights that do the cell's task, trained now where the protocol says so and they are not there yet."""
        if not cell.training:
            return self._shipped(cell), []
        folder = cache_folder() / "trained"
        return trained(cell.training, folder, code=cell.code, device=cell.device, quiet=self.progress.quiet)

    def _host(self, cell: Cell, weights: Path) -> Host:
        return self._load(cell.model, weights, cell.device, cell.dtype, cell.image_size)

    def _set(self, cell: Cell, config: HostConfig) -> TaskData:
        """Annotations and images for a cell."""
        key = (cell.task, cell.data, cell.split, cell.limit, cell.image_size, config.mean, config.std)
        if key not in self._data:
            folder = data_folder(cell.data, cell.limit, self.progress)
            annotations = tasks.get(cell.task)().load(folder, cell.limit, cell.split).in_order()
            images = ImageStore(annotations.images, cell.image_size, config.mean, config.std)
            self._data[key] = TaskData(annotations, images)
        return self._data[key]

    def _evaluated(
        self, cell: Cell, host: Host, reducer: TokenReducer[Any], data: TaskData, **changed: Any
    ) -> tuple[VisionEncoder, Outcome]:
        """The outcome of the cell's task, some of its options changed, and the encoder that counted on the way."""
        encoder = VisionEncoder(host, reducer, data.images, cell.batch_size, self.progress)
        task = tasks.get(cell.task)()
        with torch.no_grad():
            return encoder, task.evaluate(encoder, data, task.Options.model_validate({**cell.task_options, **changed}))

    def _blind(self, cell: Cell, host: Host, reducer: TokenReducer[Any], data: TaskData) -> dict[str, float] | None:
        """What dense scores by texts alone, shown blank images; None for other methods, and tasks without texts."""
        if cell.method != "dense" or cell.task_options.get(BLANK) is not False:
            return None
        _, outcome = self._evaluated(cell, host, reducer, data, **{BLANK: True})
        return outcome.values()

    def _cost(self, cell: Cell, host: Host) -> dict[str, Any]:
        """The cost of the tower that the method works in, on the cell's device, with latency.

        Under protocol pretrain that is the tower in pre-training; what it costs does not depend on its values.
        """
        key = (cell.model, cell.method, str(cell.config), cell.device, cell.dtype, cell.batch_size, cell.image_size)
        if key not in self._costs:
            model = host.model
            if cell.protocol == "pretrain":
                model = build_host(cell.model, image_size=cell.training[0].image_size).eval()
                model.to(host.device, host.dtype)
            self._costs[key] = cost_report(
                model.vision,
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


def evaluated_reducer(cell: Cell, host: Host) -> TokenReducer[Any]:
    """What reduces in evaluation: the cell's method by its resolved config; after reduced pre-training, nothing."""
    shape = open_tower(host.model.vision).shape
    if cell.protocol == "pretrain":
        return make_reducer("dense", shape)
    kind = methods.get(cell.method)
    return kind(kind.Config.model_validate(cell.config), shape)


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


def speeds(measured: Throughput, seconds: float) -> dict[str, Any]:
    """Samples a second of an evaluation that took so many seconds, end to end and in the model alone."""
    whole = measured.end_to_end_seconds(seconds)
    return {
        "unit": measured.unit,
        "samples": measured.samples,
        "end_to_end_seconds": round(whole, 4),
        "model_seconds": round(measured.model_seconds, 4),
        "end_to_end_per_second": round(measured.samples / whole, 3),
        "model_per_second": round(measured.samples / measured.model_seconds, 3),
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
        "blind": None,
        "throughput": None,
        "trained": [],
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
