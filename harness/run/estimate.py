"""About how long cells will take here: from what the same cells took before, else from counted MACs at a measured rate.

The arithmetic follows `harness.run.measure`: a first pass, the passes that are timed again beside dense's, dense's on
blank images, and the tower's latency. The shares below are rounded from records of the shipped hosts: an estimate is
good to a factor of two, and printed as "about".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch.nn import functional

from harness.cost.latency import LATENCY_SECONDS, QUICK_SECONDS, WARM_UP
from harness.data.world import TRAINING_SCENES, world_of
from harness.evaluate.timing import ONCE_MORE_SECONDS, REPEATS, SPARE_SECONDS
from harness.hosts.facts import HostFacts
from harness.hosts.ready import pick_dtype
from harness.kit.files import cache_folder
from harness.kit.kept import Kept
from harness.kit.progress import time_left
from harness.kit.registry import methods, tasks
from harness.objectives.parts.recipe import Recipe
from harness.reduction.stack import StackShape
from harness.run.cell import Cell
from harness.run.store import Record, Store
from harness.train.equal_budget import Trained
from harness.train.protocol import Stage, stage_name

# Of dense's forward pass through the tower: reading a text and judging it against an image, and writing a caption.
JUDGED_SHARE, WRITTEN_SHARE = 0.15, 7.0
# Of a training step of the tower: text side and losses of fine-tuning on top.
FINETUNED_SHARE = 0.5
# Of the pairs that both ways of re-ranking ask for, how many are different ones.
DIFFERENT_PAIRS = 0.6
IMAGE_SECONDS = 0.0005  # decoding and normalising
CELL_SECONDS, START_SECONDS, JAVA_SECONDS = 0.5, 6.0, 10.0
LATENCY_PAIRS = 30
RATE_SECONDS = 0.1


@dataclass(frozen=True)
class Size:
    """What a task looks at in a set: its images, and the texts it judges against one image each."""

    images: int
    judged: int


@dataclass(frozen=True)
class Gmacs:
    """Of an image through the tower: the method's forward pass, dense's, and the method's training step."""

    forward: float
    dense: float
    step: float


@dataclass(frozen=True)
class Estimate:
    """Seconds, None where nothing tells, and what they are from: `records` alone, or `counted` MACs too."""

    seconds: float | None
    source: str


def size_of(cell: Cell, folder: Path) -> Size:
    """The size of a cell's set, kept by its content."""
    key = {
        "task": cell.task,
        "options": cell.task_options,
        "data": cell.data_digest,
        "split": cell.split,
        "limit": cell.limit,
        "code": cell.code,
    }

    def counted() -> list[int]:
        kind = tasks.get(cell.task)
        found = kind().load(folder, cell.limit, cell.split)
        images, texts = len(found.images), len(getattr(found, kind.READS, ()) if kind.READS else ())
        if "rerank_k" in cell.task_options:
            texts = min(texts, images * cell.task_options["captions_per_image"])
            asked = cell.task_options["rerank_k"] * (texts + images) * DIFFERENT_PAIRS
            return [images, round(min(asked, texts * images))]
        return [images, 0 if kind.READS in {"", "classified"} else texts]

    return Size(*Kept("sizes").value(key, counted))


def pass_seconds(cell: Cell, size: Size, forward: float, dense: float, rate: float) -> float:
    """One evaluation: `forward` and `dense` are GMACs of an image through the tower, `rate` GMACs a second."""
    method, needs = methods.get(cell.method), tasks.get(cell.task).NEEDS
    if "caption" in needs:
        work, beside = size.images * (forward + WRITTEN_SHARE * dense), JAVA_SECONDS
    else:
        guided = method.needs_text and size.judged > 0 and cell.protocol != "pretrain"
        encoded = size.judged if guided else size.images
        work, beside = encoded * forward + size.judged * JUDGED_SHARE * dense, 0.0
    return work / rate + size.images * IMAGE_SECONDS + beside


def cell_seconds(cell: Cell, own: float, dense: float, latency: float) -> float:
    """All of a cell, by the seconds of one of its passes, of one of dense, and of its latency."""
    total = CELL_SECONDS + own + latency
    if cell.method == "dense" and "blank_images" in cell.task_options:
        total += own
    if cell.quick or not cell.timed:
        return total
    again = min(REPEATS, int(SPARE_SECONDS / own)) or int(own <= ONCE_MORE_SECONDS)
    return total + again * (own + (dense if cell.method != "dense" else 0.0))


def latency_seconds(cell: Cell, forward: float, dense: float, rate: float) -> float:
    """The tower's timing, which ends after so many pairs of runs or so long."""
    most = QUICK_SECONDS if cell.quick else LATENCY_SECONDS
    pair = cell.batch_size * (forward + dense) / rate
    return WARM_UP * pair + min(LATENCY_PAIRS * pair, max(most, 5 * pair))


def measured_rate(shape: StackShape, batch: int, device: str, dtype: torch.dtype) -> float:
    """GMACs a second of this machine, in a block of the tower's sizes (its matrix products, attention and norms)."""
    tokens, width = shape.patches + shape.prefix, shape.width
    states = torch.randn(min(batch, 16), tokens, width, device=device, dtype=dtype)
    weights = [torch.randn(size, width, device=device, dtype=dtype) for size in (3 * width, width, 4 * width)]
    back = torch.randn(width, 4 * width, device=device, dtype=dtype)
    macs = states.shape[0] * tokens * width * (12 * width + 2 * tokens)

    def block() -> None:
        qkv = functional.linear(functional.layer_norm(states, (width,)), weights[0])
        q, k, v = qkv.view(*states.shape[:2], 3, shape.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape_as(states)
        left = states + functional.linear(mixed, weights[1])
        hidden = functional.gelu(functional.linear(functional.layer_norm(left, (width,)), weights[2]))
        left + functional.linear(hidden, back)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)

    with torch.no_grad():
        block()
        started, done = perf_counter(), 0
        while perf_counter() - started < RATE_SECONDS:
            block()
            done += 1
        return done * macs / (perf_counter() - started) / 1e9


def recorded_seconds(cell: Cell, records: Iterable[Record]) -> float | None:
    """What the same cell took on this machine before, by the latest done record, whatever its seed and code."""
    wanted = _measured_alike(cell.model_dump(mode="json"))
    alike = [one for one in records if one["status"] == "done" and _measured_alike(one["spec"]) == wanted]
    latest = max(alike, key=lambda one: one["run"]["started"], default=None)
    return None if latest is None else float(latest["run"]["seconds"])


def _measured_alike(spec: Mapping[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in spec["config"].items() if name != "seed"}
    left_out = {"seed", "code", "training", "weights", "base"}
    return {name: value for name, value in spec.items() if name not in left_out} | {"config": config}


def stage_seconds(
    pairs: int | None, gmacs_per_pair: Callable[[], float], rate: float, before: Sequence[Mapping[str, Any]]
) -> Estimate:
    """A stage of training over `pairs`: at the rate of trainings `before` it of its kind, else of counted MACs.

    before: records of finished trainings on this machine, each with `seconds` and `pairs`.
    """
    if pairs is None:
        return Estimate(None, "")
    timed = [one["seconds"] / one["pairs"] for one in before if one.get("seconds") and one.get("pairs")]
    if timed:
        return Estimate(pairs * timed[-1], "records")
    return Estimate(pairs * gmacs_per_pair() / rate, "counted")


def pairs_of(steps: int | None, recipe: Mapping[str, Any], data: Sequence[str], processes: int) -> int | None:
    """The pairs of a stage: of its steps, or of its epochs of the built-in world, of which the recipe may take a part;
    None of data that are not counted.
    """
    of_a_step = recipe["batch_size"] * recipe.get("accumulate", 1) * processes
    if steps is not None:
        return int(steps * of_a_step)
    if all(world_of(one) is not None for one in data):
        epochs, most = int(recipe["epochs"] * TRAINING_SCENES * len(data)), recipe.get("max_steps")
        return epochs if most is None else min(epochs, int(most * of_a_step))
    return None


def finetuned_gmacs(gmacs: Gmacs, recipe: Recipe) -> float:
    """Of a pair in fine-tuning: a frozen tower is passed forward alone."""
    frozen = recipe.multipliers.get("vision") == 0
    return gmacs.step * FINETUNED_SHARE + (gmacs.forward if frozen else gmacs.step)


def trained_before(folder: Path, stage: Stage) -> list[Mapping[str, Any]]:
    """Records of finished trainings of a stage's kind in a cache folder, with as many threads, the oldest first."""
    from harness.train.session import DONE_FILE  # imports what trains

    named = "-".join(word for word in (stage.stage, stage.method, stage.task) if word)
    found = []
    for path in folder.glob(f"{named}-*/{DONE_FILE}"):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue  # what cannot be read tells nothing of time; training says what is wrong with it
        alike = record.get("facts", {}).get("model") == stage.model and record.get("device") == "cpu"
        if alike and record.get("threads") == torch.get_num_threads():
            found.append((path.stat().st_mtime, record))
    return [record for _, record in sorted(found, key=lambda one: one[0])]


class Estimator:
    """The estimates of one command's cells, which share what they follow from; `latency`: whether towers are timed."""

    def __init__(self, data: Path, store: Store, *, latency: bool = True) -> None:
        self.data, self.store, self.latency = data, store, latency
        self._rates: dict[str, float] = {}
        self._sizes: dict[tuple[str, str], Size] = {}
        self._known: dict[str, Estimate] = {}
        self._timed: set[str] = set()
        self._trained: set[str] = set()

    def of(self, cell: Cell, host: HostFacts, gmacs: Gmacs) -> Estimate:
        """A cell that is to run; training is of the first cell that rests on it, and latency of the first it is timed
        for.
        """
        name = json.dumps(_measured_alike(cell.model_dump(mode="json")), sort_keys=True)
        if name not in self._known:
            self._known[name] = self._measured(cell, host, gmacs)
        measured = self._known[name]
        training = [self._stage(cell, number, host, gmacs) for number in range(len(cell.training))]
        parts = [measured, *training]
        if any(one.seconds is None for one in parts):
            return Estimate(None, "")
        source = "counted" if any(one.source == "counted" for one in parts) else "records"
        return Estimate(sum(one.seconds or 0.0 for one in parts), source)

    def _measured(self, cell: Cell, host: HostFacts, gmacs: Gmacs) -> Estimate:
        seconds = recorded_seconds(cell, self.store.recent(cell.method, cell.ratio, cell.task))
        if seconds is not None:
            return Estimate(seconds, "records")
        if (cell.task, repr(cell.task_options)) not in self._sizes:
            self._sizes[cell.task, repr(cell.task_options)] = size_of(cell, self.data)
        size, rate = self._sizes[cell.task, repr(cell.task_options)], self._rate(cell, host)
        # Evaluated after reduced pre-training, a host keeps all tokens.
        forward = gmacs.dense if cell.protocol == "pretrain" else gmacs.forward
        own, dense = (pass_seconds(cell, size, one, gmacs.dense, rate) for one in (forward, gmacs.dense))
        tower = f"{cell.method} {cell.config} {host.shape}"
        timed = self.latency and cell.timed and tower not in self._timed
        latency = 0.0 if not timed else latency_seconds(cell, gmacs.forward, gmacs.dense, rate)
        self._timed.add(tower)
        return Estimate(cell_seconds(cell, own, dense, latency), "counted")

    def _rate(self, cell: Cell, host: HostFacts) -> float:
        if cell.device not in self._rates:
            dtype = pick_dtype(cell.dtype)
            self._rates[cell.device] = measured_rate(host.shape, cell.batch_size, cell.device, dtype)
        return self._rates[cell.device]

    def _stage(self, cell: Cell, number: int, host: HostFacts, gmacs: Gmacs) -> Estimate:
        """What is left to train of a stage: nothing where it is done, or counted with a cell before."""
        from harness.train.session import DONE_FILE

        chain, stage = cell.training[: number + 1], cell.training[number]
        name, trained = stage_name(chain), cache_folder() / "trained"
        if name in self._trained or (trained / name / DONE_FILE).is_file():
            return Estimate(0.0, "records")
        self._trained.add(name)
        recipe = Recipe.model_validate(stage.recipe)

        def per_pair() -> float:
            if stage.stage == "pretrain":
                sizes = dict(host.config)
                objective = stage.objective, stage.objective_settings
                return Trained(stage.model, sizes, *objective, stage.method, stage.config).gmacs_per_pair(recipe)
            return finetuned_gmacs(gmacs, recipe)

        pairs = pairs_of(stage.steps, stage.recipe, stage.data, stage.processes)
        return stage_seconds(pairs, per_pair, self._rate(cell, host), trained_before(trained, stage))


def total_in_words(estimates: Sequence[Estimate]) -> str:
    """', about 14 min on this machine', and what is not known; nothing where nothing is to run."""
    known = [one.seconds for one in estimates if one.seconds is not None]
    unknown = len(estimates) - len(known)
    words = f", about {in_words(START_SECONDS + sum(known))} on this machine" if known else ""
    left_out = "training over epochs of data that were not counted"
    return words + (f"; of {unknown} cells no estimate ({left_out})" if unknown else "")


def in_words(seconds: float) -> str:
    """'40 s', '14 min', '3.5 h'."""
    return time_left(seconds).removeprefix("about ").removesuffix(" left")
