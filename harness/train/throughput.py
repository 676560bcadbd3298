"""How much of a machine's arithmetic a pre-training step uses: its counted MACs against a matrix product's rate.

The steps are those of `harness.train.loop` on made-up pairs; the product is timed before and after each of them, so
that their ratio holds while the machine drifts. Shapes: B pairs of a batch, L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from statistics import median
from time import perf_counter
from typing import Any, cast

import torch

from harness.cost.flops import GIGA
from harness.cost.host import NO_WORDS, host_parts
from harness.cost.latency import attention_backends
from harness.cost.memory import MIB
from harness.data.pair_loader import loader_rate
from harness.hosts.build import build_host
from harness.hosts.host import HostConfig
from harness.hosts.ready import pick_dtype
from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT, Progress
from harness.kit.provenance import provenance
from harness.objectives import choose
from harness.objectives.parts.objective import Objective, Pairs
from harness.objectives.parts.recipe import PRETRAIN, on_data, recipe_of
from harness.train.log import TrainLog
from harness.train.loop import Run
from harness.train.pretrain import within_budget
from harness.train.request import PretrainRequest
from harness.train.session import Session
from harness.train.step_time import time_shares

# After the first, in which kernels are chosen and the optimizer's state is made.
WARM_UP = 1
PRODUCT_SECONDS = 1.0
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Endless:
    """Stands where a run expects its loader: it is asked for the length of an epoch only."""

    steps_per_epoch: int = 10_000


@dataclass(frozen=True)
class Timed:
    """Seconds of each step, and the rate of products of that side and dtype before the first step and after each.

    attention: what fused attention was dispatched; peak_mib: the most that a GPU's allocator held in a step; time: the
    share of each kind of operation in one more step (`harness.train.step_time`).
    """

    seconds: list[float]
    product_gmacs_per_s: list[float]
    side: int
    dtype: torch.dtype
    attention: str
    time: dict[str, float]
    peak_mib: float | None = None


class TimedRun(Run):
    """A training run that is given its pairs, and leaves nothing behind."""

    def step(self, pairs: Pairs) -> None:
        """One optimizer step, over as many micro-batches as the recipe accumulates."""
        for _ in range(self.recipe.accumulate):
            self._advance(pairs)


def measure_throughput(
    request: PretrainRequest, steps: int = 3, *, loader_seconds: float = 5.0, progress: Progress = SILENT
) -> dict[str, Any]:
    """The `throughput --json` object of a request's host with random weights, over `steps` optimizer steps.

    Every text has the host's longest length, which is what the MACs are counted for; recomputed products are not
    counted. A step has all losses, however late the recipe begins with one. `share` is the median over steps of ideal /
    measured seconds, where ideal = MACs / the product's rate. The request's data, where it names any, are only loaded,
    for about `loader_seconds`. Raises HarnessError for what cannot be built, and for a batch that the GPU's memory does
    not hold.
    """
    recipe = recipe_of(request.model, on_data(request.model, PRETRAIN, request.data, request.recipe))
    request, recipe = within_budget(request, recipe)
    recipe = recipe.model_copy(update={"matching_from": 0.0})
    session = Session(request, recipe)
    run = _run(session, request)
    config: HostConfig = run.objective.host.config
    loader = session.pairs(config, request.data) if request.data else None
    if loader is not None:
        loader.draw_scenes(progress)  # that is no part of the rate of loading
    parts = host_parts(request.model, run.objective.reducer, config.image_size, recipe)
    with _memory_errors(recipe.batch_size):
        timed = _time_steps(run, steps, AUTOCAST.get(request.precision, run.dtype), progress)
    pairs = recipe.batch_size * recipe.accumulate
    figures = against_product(timed, pairs, sum(part["train_step_gmacs"] for part in parts.values()))
    loaded = None
    if loader is not None:
        loaded = loader_part(loader_rate(loader, loader_seconds), loader.workers, figures["step"]["pairs_per_s"])
        loaded["pairs_per_epoch"] = loader.samples
    return {
        "model": request.model,
        "method": request.method,
        "config": run.objective.reducer.config.model_dump(mode="json"),
        "image_size": config.image_size,
        "text_tokens": config.text_length,
        "batch_size": recipe.batch_size,
        "accumulate": recipe.accumulate,
        "precision": request.precision,
        "recompute": request.recompute,
        "attention_backend": timed.attention,
        "parts": parts,
        **figures,
        "time": timed.time,
        "peak_mib": timed.peak_mib,
        "loader": loaded,
        "run": provenance(request.seed, session.accelerator.device),
    }


def against_product(timed: Timed, pairs: int, gmacs: float) -> dict[str, Any]:
    """The figures of steps over `pairs` pairs of `gmacs` each: how long they took, and would at the product's rate."""
    rates, seconds = timed.product_gmacs_per_s, timed.seconds
    around = [(before + after) / 2 for before, after in pairwise(rates)]
    return {
        "step": {"median_s": median(seconds), "seconds": seconds, "pairs_per_s": pairs / median(seconds)},
        "train_step_gmacs": gmacs,
        "product": {
            "side": timed.side,
            "dtype": str(timed.dtype).removeprefix("torch."),
            "float32_precision": torch.get_float32_matmul_precision(),
            "gmacs_per_s": median(rates),
            "rates": rates,
        },
        "ideal_s": pairs * gmacs / median(rates),
        "share": median(pairs * gmacs / rate / spent for rate, spent in zip(around, seconds)),
    }


def loader_part(images_per_s: float, workers: int, model_rate: float) -> dict[str, Any]:
    """A loader's rate alone beside the model's alone (images per second).

    `wait_share`: of the time of a run, what its steps wait for images; without workers nothing is loaded during a
    step. `workers_needed`: how many keep up with the model, if each adds what one of these does.
    """
    wait = max(0.0, 1 - images_per_s / model_rate) if workers else model_rate / (model_rate + images_per_s)
    return {
        "images_per_s": images_per_s,
        "workers": workers,
        "model_images_per_s": model_rate,
        "bottleneck": images_per_s < model_rate,
        "wait_share": wait,
        "workers_needed": max(1, ceil(model_rate * max(1, workers) / images_per_s)),
    }


def synthetic_pairs(config: HostConfig, batch: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Pairs:
    """Random pixels with texts of the longest length, L = text_length, in which every token is an ordinary word."""
    ids = torch.randint(NO_WORDS.unknown + 1, config.vocab_size, (batch, config.text_length), device=device)
    pixels = torch.randn(batch, 3, config.image_size, config.image_size, device=device, dtype=dtype)
    return Pairs(pixels, ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(batch, device=device))


def product_side(device: torch.device) -> int:
    """The side of matrices whose product fills a device."""
    return 8192 if device.type == "cuda" else 2048


def product_rate(device: torch.device, dtype: torch.dtype, seconds: float = PRODUCT_SECONDS) -> float:
    """GMACs per second of products of two large square matrices, over at least `seconds` after a first one."""
    side = product_side(device)
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    at_once = 16 if device.type == "cuda" else 1

    def products() -> None:
        for _ in range(at_once):
            left @ right

    products()
    spent, done = 0.0, 0
    while spent < seconds:
        spent += _seconds(products, device)
        done += at_once
    return done * side**3 / spent / GIGA


def _run(session: Session, request: PretrainRequest) -> TimedRun:
    """A run of the request as `Session.run` makes it, of a host with random weights."""
    recipe, choice = session.recipe, choose(request.model, request.objective, request.objective_settings)
    if not choice.terms[0].kind.same_batches(Objective):
        raise HarnessError(
            f"objective {choice.name}: reads other batches than pairs, which alone are timed; name another"
        )
    dropout = {} if recipe.dropout is None else {"dropout": recipe.dropout}
    host = build_host(request.model, image_size=recipe.image_size, **dropout).train()
    dtype = pick_dtype(request.dtype)
    steps = Endless.steps_per_epoch * recipe.epochs
    return TimedRun(
        choice.make(host, session.reducer(host), NO_WORDS, recipe).to(dtype),
        batches=cast(Any, Endless()),
        tokenizer=cast(Any, None),  # no text is read
        recipe=recipe,
        accelerator=session.accelerator,
        folder=request.out,
        facts=session.facts,
        seed=request.seed,
        steps=steps,
        dtype=dtype,
        log=TrainLog(request.out, steps, active=False),
        recompute=request.recompute,
    )


def _time_steps(run: TimedRun, steps: int, dtype: torch.dtype, progress: Progress) -> Timed:
    device, seconds, peaks = run.accelerator.device, [], []
    pairs = synthetic_pairs(run.objective.host.config, run.recipe.batch_size, device, run.dtype)
    run.model.train()
    with progress.bar("training steps", 1 + WARM_UP + steps + 1, timed=True) as bar:
        attention = attention_backends(lambda: run.step(pairs))
        bar.advance()
        for _ in range(WARM_UP):
            run.step(pairs)
            bar.advance()
        rates = [product_rate(device, dtype)]
        for _ in range(steps):
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            seconds.append(_seconds(lambda: run.step(pairs), device))
            if device.type == "cuda":
                peaks.append(torch.cuda.max_memory_allocated(device) / MIB)
            rates.append(product_rate(device, dtype))
            bar.advance()
        time = time_shares(lambda: run.step(pairs), device.type == "cuda")
        bar.advance()
    return Timed(seconds, rates, product_side(device), dtype, attention, time, max(peaks, default=None))


@contextmanager
def _memory_errors(batch_size: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise HarnessError(
            f"batch size {batch_size}: the GPU's memory does not hold it; lower --batch-size or add --recompute"
        ) from error


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    _wait(device)
    start = perf_counter()
    call()
    _wait(device)
    return perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
