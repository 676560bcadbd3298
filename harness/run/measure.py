"""What the cells of one command share (loaded hosts, sets, counted costs), and the measuring of one of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from harness.cost.latency import LATENCY_SECONDS, QUICK_SECONDS
from harness.cost.report import cost_report
from harness.data.image_store import ImageStore, PixelBudget
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.quantities import images_kept_all
from harness.evaluate.sample import sample_of
from harness.evaluate.task import Outcome, TaskData
from harness.evaluate.timing import Pass, settled, speeds
from harness.hosts.host import HostConfig, HostModel
from harness.hosts.ready import Host, load_host, pick_dtype
from harness.hosts.weights.sets import task_weights
from harness.kit.allocator import keep_freed_memory
from harness.kit.distributed import on_main_process, run_together, world
from harness.kit.errors import HarnessError, is_out_of_memory, warn_on_stderr
from harness.kit.files import cache_folder
from harness.kit.progress import SILENT, Progress
from harness.kit.provenance import environment, hardware, load
from harness.kit.registry import methods, tasks
from harness.reduction import TokenReducer
from harness.run.cell import Cell, cost_code
from harness.run.costs import CountedCosts
from harness.run.grid import data_folder
from harness.run.store import FORMAT
from harness.run.unknown import unknown_to
from harness.train.protocol import method_host

BLANK = "blank_images"
# Cells whose weights are trained may each have their own, which are too many to keep.
HOSTS_KEPT = 2


class Measurer:
    """The hosts, sets and costs of one command's cells.

    `weights`: the file or folder named, None for those shipped. `tokenizer`: the one named in place of the weights'.
    `latency`: whether the tower is timed.
    """

    def __init__(
        self, weights: Path | None, progress: Progress, tokenizer: str | None = None, *, latency: bool = True
    ) -> None:
        keep_freed_memory()
        self.weights, self.progress, self.tokenizer, self.latency = weights, progress, tokenizer, latency
        self._warn = cache(warn_on_stderr)
        self._load: Callable[..., Host] = lru_cache(HOSTS_KEPT)(partial(load_host, warn=self._warn))
        self._data: dict[tuple[Any, ...], TaskData] = {}
        self._images: dict[tuple[Any, ...], ImageStore] = {}
        self._pixels = PixelBudget()
        self._costs: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._counted_costs = CountedCosts()

    def prepare(self, cell: Cell) -> None:
        """Load what the cell needs; HarnessError when the weights, the size or the data cannot be used for it."""
        try:
            config = run_together(partial(self.config, cell))
            data = run_together(partial(self._set, cell, config))
            run_together(partial(self._check, cell, data))
            data.images.ready(self.progress)
        except Exception as error:
            if not is_out_of_memory(error):
                raise  # Memory that runs out here runs out in the cell too, and is recorded there.

    def run(self, cell: Cell) -> tuple[dict[str, Any], pd.DataFrame]:
        """Measure one cell: the record without its quality, and the per-sample outcomes that it follows from.

        Several processes share the samples and all have the outcomes; the first measures costs while the others wait.
        """
        started, clock, busy = datetime.now(UTC), time.perf_counter(), load()
        host, reducer, weights, training = self.subject(cell)
        data = run_together(partial(self._set, cell, host.model.config))
        encoder, outcome, first = run_together(partial(self._timed, cell, host, reducer, data, self.progress))
        encoder.release()
        again = partial(self._again, cell, host, data)
        dense = host.method("dense", {})
        beside = None if cell.method == "dense" else partial(again, dense)
        once = cell.quick or not cell.timed
        passes, dense_passes = ([first], []) if once else settled(first, partial(again, reducer), beside)
        unknown = unknown_to(cell, host, weights, data, self._warn)
        blind = run_together(partial(self._blind, cell, host, reducer, data))
        unguided, machine = encoder.unguided, hardware(torch.device(cell.device))
        record = skeleton_record(cell) | {
            "status": "done",
            "cost": on_main_process(partial(self._cost, cell, host, encoder, unguided == 1)),
            "diagnostics": {
                **outcome.diagnostics,
                **fallback_of(reducer, encoder.text_guided, unguided),
                **unknown,
            },
            "throughput": speeds(passes, dense_passes) if cell.timed else None,
            "blind": blind,
            "trained": training,
            "run": environment(machine, cell.dtype, cell.seed, started, time.perf_counter() - clock)
            | {"load": busy, "processes": world()},
        }
        return record, outcome.frame()

    def subject(self, cell: Cell) -> tuple[Host, TokenReducer[Any], Path, list[dict[str, Any]]]:
        """What a cell evaluates: the host, what reduces in it, both on the device, its weights, and their training."""
        weights, training = self._weights(cell)
        torch.manual_seed(cell.seed)
        host = run_together(partial(self._host, cell, weights))
        return host, evaluated_reducer(cell, host), weights, training

    def config(self, cell: Cell) -> HostConfig:
        """That of the cell's host; HarnessError where its weights cannot do the cell's task."""
        if cell.training:
            return method_host(cell.training).config
        model = self._host(cell, self._shipped(cell)).model
        needs = tasks.get(cell.task).NEEDS
        if needs and not needs & model.abilities:
            line = f"{cell.task}: {model.cannot(' or '.join(sorted(needs)))}"
            raise HarnessError(f"{line}; leave the task out, or name another --model or --weights")
        config: HostConfig = model.config
        return config

    def _shipped(self, cell: Cell) -> Path:
        return task_weights(cell.model, self.weights, cell.task)

    def _weights(self, cell: Cell) -> tuple[Path, list[dict[str, Any]]]:
        """The weights that do the cell's task, trained now where the protocol says so and they are not there yet."""
        if not cell.training:
            return self._shipped(cell), []
        from harness.train.stages import trained

        folder = cache_folder() / "trained"
        return trained(cell.training, folder, device=cell.device, quiet=self.progress.quiet)

    def _host(self, cell: Cell, weights: Path) -> Host:
        # What was trained here has its tokenizer beside it.
        tokenizer = None if cell.training else self.tokenizer
        return self._load(cell.model, weights, cell.device, cell.dtype, cell.image_size, tokenizer)

    def _set(self, cell: Cell, config: HostConfig) -> TaskData:
        """Annotations and images for a cell; tasks on the same images share those that are decoded."""
        key = (cell.task, cell.data, cell.split, cell.limit, cell.image_size, config.mean, config.std)
        if key not in self._data:
            folder = data_folder(cell.data, cell.limit, self.progress)
            annotations = tasks.get(cell.task)().load(folder, cell.limit, cell.split).in_order()
            seen = (tuple(annotations.images), cell.image_size, config.mean, config.std)
            if seen not in self._images:
                self._images[seen] = ImageStore(*seen, budget=self._pixels)
            self._data[key] = TaskData(annotations, self._images[seen])
        return self._data[key]

    def _check(self, cell: Cell, data: TaskData) -> None:
        """HarnessError where weights that are not trained first cannot do the cell's task on its set."""
        if not cell.training:
            task, host = tasks.get(cell.task)(), self._host(cell, self._shipped(cell))
            task.check(host, data.annotations, task.Options.model_validate(cell.task_options))

    def _timed(
        self,
        cell: Cell,
        host: Host,
        reducer: TokenReducer[Any],
        data: TaskData,
        progress: Progress,
        *,
        watched: bool = True,
        **changed: Any,
    ) -> tuple[VisionEncoder, Outcome, Pass]:
        """The outcome of the cell's task, some of its options changed; the encoder that counted; and the time taken."""
        encoder = VisionEncoder(host, reducer, data.images, cell.batch_size, progress, watched=watched)
        task, started = tasks.get(cell.task)(), time.perf_counter()
        with torch.no_grad():
            options = task.Options.model_validate({**cell.task_options, **changed})
            outcome = task.evaluate(encoder, data, options)
        return encoder, outcome, Pass(outcome.throughput, time.perf_counter() - started)

    def _again(self, cell: Cell, host: Host, data: TaskData, reducer: TokenReducer[Any]) -> Pass:
        """The time of one more pass."""
        return run_together(partial(self._timed, cell, host, reducer, data, SILENT, watched=False))[-1]

    def _blind(self, cell: Cell, host: Host, reducer: TokenReducer[Any], data: TaskData) -> dict[str, float] | None:
        """What dense scores by texts alone, shown blank images; None for other methods, and tasks without texts."""
        if cell.method != "dense" or cell.task_options.get(BLANK) is not False:
            return None
        _, outcome, _ = self._timed(cell, host, reducer, data, self.progress, **{BLANK: True})
        return outcome.values()

    def _cost(self, cell: Cell, host: Host, encoder: VisionEncoder, kept_all: bool) -> dict[str, Any]:
        """The cost of the tower that the method works in, on the cell's device, with latency, and of the encodings.

        Under protocol pretrain that is the tower in pre-training, and the encodings are dense; what a tower costs does
        not depend on its values.
        """
        images, pairs = encoder.encoded_images, encoder.encoded_pairs
        return self._counted(cell, host.model, images, pairs, len(encoder.images), kept_all)

    def recount(self, cell: Cell, record: dict[str, Any]) -> dict[str, Any]:
        """The cost of a cell that was measured before, counted by the present code; its encodings stay as they were."""
        made, host = record["cost"]["encodings"], self.subject(cell)[0]
        kept_all = images_kept_all(record)
        return self._counted(cell, host.model, made["images"], made["pairs"], made["of_images"], kept_all)

    def _counted(
        self, cell: Cell, model: HostModel, images: int, pairs: int, of_images: int, kept_all: bool
    ) -> dict[str, Any]:
        if cell.protocol == "pretrain":
            planned = method_host(cell.training)
            tower = type(planned)(planned.config).eval().to(cell.device, pick_dtype(cell.dtype))
            encoded, cost = self._report(cell, model, "dense", {}), self._report(cell, tower, cell.method, cell.config)
        else:
            encoded = cost = self._report(cell, model, cell.method, cell.config)
        spent = encodings(images, pairs, of_images, kept_all, encoded)
        return cost | {"encodings": spent, "code": cost_code(cell.model, cell.method)}

    def _on_images(self, cell: Cell, method: str, config: dict[str, Any]) -> dict[str, Any]:
        """What the cost of an adaptive method is counted with: real images, and the method with what it learned."""
        if not methods.get(method).adaptive:
            return {}
        weights, _ = self._weights(cell)
        host = self._host(cell, weights)
        sample = sample_of(host, self._set(cell, host.model.config).annotations)
        return {"sample": sample, "reducer": host.method(method, config)}

    def _report(self, cell: Cell, model: HostModel, method: str, config: dict[str, Any]) -> dict[str, Any]:
        shape = model.shape
        tower = (cell.model, str(shape), model.config.image_size, cell.device, cell.dtype, cell.batch_size)
        # What an adaptive method costs depends on the weights and the images; what others cost does not.
        own = (cell.weights, cell.task, str(cell.training)) if methods.get(method).adaptive else ()
        key = (*tower, *own, method, str(config))
        if key not in self._costs:
            self._costs[key] = cost_report(
                model.vision,
                method,
                shape=shape,
                settings=config,
                **self._on_images(cell, method, config),
                batch_size=cell.batch_size,
                latency=self.latency and cell.timed,
                seconds=QUICK_SECONDS if cell.quick else LATENCY_SECONDS,
                device=cell.device,
                dtype=pick_dtype(cell.dtype),
                name=cell.model,
                counted=self._counts(cell, model, method, config),
                progress=self.progress,
            )
        return self._costs[key]

    def _counts(self, cell: Cell, model: HostModel, method: str, config: dict[str, Any]) -> dict[str, Any] | None:
        """What is counted without running the tower; None of an adaptive method, and where memory is measured."""
        if methods.get(method).adaptive or cell.device.startswith("cuda"):
            return None
        sizes = model.config.model_dump(mode="json")
        return self._counted_costs.of(cell.model, sizes, model.shape, method, config, cell.dtype, lambda: model.vision)


def evaluated_reducer(cell: Cell, host: Host) -> TokenReducer[Any]:
    """What reduces in evaluation: the cell's method by its resolved config, with what it learned; after reduced
    pre-training, nothing.
    """
    return host.method("dense", {}) if cell.protocol == "pretrain" else host.method(cell.method, cell.config)


def fallback_of(reducer: TokenReducer[Any], text_guided: bool, unguided: float | None) -> dict[str, Any]:
    """What a record says of images that a text-guided method saw without a text: its words, and what it really kept.

    `unguided`: as of VisionEncoder.
    """
    if not text_guided or unguided is None:
        return {"fallback": type(reducer).without_text if text_guided else None, "unguided_tokens": None}
    kept = "all tokens" if unguided == 1 else f"{100 * unguided:.1f} % of the tokens"
    return {"fallback": type(reducer).without_text or kept, "unguided_tokens": round(unguided, 6)}


def encodings(images: int, pairs: int, of_images: int, kept_all: bool, cost: dict[str, Any]) -> dict[str, Any]:
    """How many images and image-text pairs the tower encoded, and what that cost beside dense's one pass per image.

    `kept_all`: whether images without a text kept all their tokens, as text-guided methods do.
    """
    forward, dense = cost["forward"]["total_gmacs"], cost["dense"]["forward_gmacs"]
    without_text = dense if kept_all else forward
    return {
        "images": images,
        "pairs": pairs,
        "of_images": of_images,
        "gmacs_total": round(images * without_text + pairs * forward, 4),
        "dense_gmacs_total": round(of_images * dense, 4),
    }


def skeleton_record(cell: Cell) -> dict[str, Any]:
    """The parts of a record that every status has."""
    return {
        "format": FORMAT,
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
