"""Whether what a method learned is better than what it began with: trained minus untrained, paired, on held-out scenes.

By default the host stands still: the multipliers of all its parameters are 0, and only the method is trained, by the
losses of fine-tuning on retrieval and its own. Both are then measured in the same host at the same token ratio, on the
same queries; the untrained one has its parameters as seed 0 draws them. Methods that put tokens of their own in the
place of the host's (patchmerger, sinkhorn, sit) are learned with the host, and stand beside the host as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch

from harness.check.weights import Measured
from harness.cost.adaptive import ratio_on
from harness.data.world import BUILT_IN_WORLD
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.sample import sample_of
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import Host, load_host
from harness.hosts.weights.own import LearnedMethod
from harness.hosts.weights.sets import task_weights
from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT, Progress
from harness.kit.registry import methods
from harness.metrics.stats import paired
from harness.reduction.budget import make_reducer
from harness.run.budgets import as_drawn
from harness.run.choose import DEFAULT_HOST
from harness.train.finetune import finetune
from harness.train.request import FinetuneRequest

TASK, METRIC = "retrieval", "t2i_r1"
# The contrast ranks everything; re-ranking, which costs most, says nothing of R@1 before it.
OPTIONS = {"rerank_k": 1}
RECIPE: dict[str, Any] = {"warmup_steps": 5, "batch_size": 32}


def lines(
    names: Iterable[str], ratio: float, steps: int, limit: int, rate: float, *, with_host: bool
) -> Iterator[tuple[str, bool]]:
    """(line, good) for a heading, then for each method: bad where the interval of the difference is not above 0.

    HarnessError for methods that learn nothing, and for a ratio that one cannot reach.
    """
    weights = task_weights(DEFAULT_HOST, None, TASK)
    measured = Measured(DEFAULT_HOST, weights, TASK, BUILT_IN_WORLD, limit, Progress())
    chosen = tuple(names)
    for name in chosen:
        if not make_reducer(name, measured.host.model.shape).learns:
            raise HarnessError(f"method {name} learns nothing: name methods that do")
    dense = r1(measured.host, measured, "dense", {})["value"].mean()
    what = f"{DEFAULT_HOST}, {BUILT_IN_WORLD}, {steps} steps of {RECIPE['batch_size']} pairs"
    how = f"host {'trained too' if with_host else 'frozen'}, rate {rate:g}"
    yield f"{what}, {how}: t2i R@1 of {limit} images, dense {100 * dense:.1f}", True
    yield f"{'':<14}{'ratio':>6}{'untrained':>11}{'trained':>9}   difference [95 %]", True
    for name in chosen:
        yield _line(name, ratio, measured, trained(name, ratio, steps, rate, measured, with_host=with_host))


def _line(name: str, ratio: float, measured: Measured, host: Host) -> tuple[str, bool]:
    """A method's line. What an adaptive one learned says how much it keeps: its untrained self is bent to as much."""
    learned, shape, kind = host.learned, measured.host.model.shape, methods.get(name)
    assert learned is not None
    config = learned.config
    if kind.adaptive:
        on_images = ratio_on(open_tower(host.model.vision), sample_of(host, measured.data.annotations))
        ratio = on_images(host.method(name, config))
        begun = ratio_on(open_tower(measured.host.model.vision), sample_of(measured.host, measured.data.annotations))
        bent = make_reducer(name, shape, ratio=ratio, measured=lambda made: begun(as_drawn(made).eval()))
        config = bent.config.model_dump(mode="json")
    drawn = as_drawn(kind(kind.Config(**config), shape)).state_dict()
    before = r1(replace(measured.host, learned=LearnedMethod(name, config, drawn)), measured, name, config)
    return compared(name, ratio, before, r1(host, measured, name, learned.config))


def trained(name: str, ratio: float, steps: int, rate: float, measured: Measured, *, with_host: bool) -> Host:
    """The host and what a method learned in so many steps; an adaptive one learns at its own setting."""
    parts = sorted({parameter.partition(".")[0] for parameter, _ in measured.host.model.named_parameters()})
    recipe = RECIPE | {"learning_rate": rate, "multipliers": {} if with_host else dict.fromkeys(parts, 0.0)}
    at = None if methods.get(name).adaptive else ratio
    with TemporaryDirectory() as folder:
        out = Path(folder) / "weights"
        shared: dict[str, Any] = {"model": DEFAULT_HOST, "task": TASK, "device": "cpu", "quiet": True}
        finetune(FinetuneRequest(method=name, ratio=at, steps=steps, recipe=recipe, out=out, **shared))
        return load_host(DEFAULT_HOST, out, "cpu", "float32")


@torch.no_grad()
def r1(host: Host, measured: Measured, name: str, config: dict[str, Any]) -> pd.DataFrame:
    """The outcome of each query under a method with what its host says it learned, by query: value, and cluster."""
    encoder = VisionEncoder(host, host.method(name, config), measured.data.images, 64, SILENT)
    options = measured.task.Options.model_validate(OPTIONS)
    frame = measured.task.evaluate(encoder, measured.data, options).frame()
    return frame[frame["metric"] == METRIC].set_index("sample")


def compared(name: str, ratio: float, before: pd.DataFrame, after: pd.DataFrame) -> tuple[str, bool]:
    """A method's line, and whether it is better by more than chance."""
    found = paired(after["value"], before["value"], after["cluster"])
    low, high = found["ci95"]
    shown = f"{100 * found['delta']:+.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    values = f"{ratio:>6.2f}{100 * before['value'].mean():>11.1f}{100 * after['value'].mean():>9.1f}"
    return f"{name:<14}{values}   {shown}", low > 0
