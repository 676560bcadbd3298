"""Whether shipped weights reach the floors they are promised to reach, dense, on 1,000 held-out scenes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.data.image_store import ImageStore
from harness.data.scenes import oracle_recall
from harness.data.world import BUILT_IN_WORLD
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.task import TaskData
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import load_host
from harness.hosts.weights.sets import task_weights
from harness.kit.progress import Progress
from harness.kit.registry import tasks
from harness.reduction.budget import make_reducer
from harness.run.choose import measurable_tasks
from harness.run.grid import data_folder

Lines = list[tuple[str, bool]]
Values = dict[str, float]
ORACLE_FLOOR, ORACLE_SHARE_FLOOR = 0.60, 0.60


@dataclass(frozen=True)
class Floor:
    """What a metric must reach, and by how much it must be above what blank images give."""

    metric: str
    name: str
    least: float
    above_blank: float
    shown: str = ".1%"

    def lines(self, seen: Values, blank: Values) -> Lines:
        """Whether both are reached."""
        value, blind = seen[self.metric], blank[self.metric]
        over, shown = value - blind, self.shown
        return [
            (f"{self.name} {value:{shown}} (floor {self.least:{shown}})", value >= self.least),
            (
                f"above blank images ({blind:{shown}}) by {over:{shown}} (floor {self.above_blank:{shown}})",
                over >= self.above_blank,
            ),
        ]


FLOORS = {
    ("albef-tiny", "vqa"): Floor("vqa_accuracy", "VQA accuracy", 0.90, 0.30),
    ("albef-tiny", "entailment"): Floor("entailment_accuracy", "entailment accuracy", 0.62, 0.28),
    ("albef-tiny", "nlvr2"): Floor("nlvr2_accuracy", "NLVR2 accuracy", 0.68, 0.15),
    ("blip-tiny", "captioning"): Floor("cider", "captions' CIDEr", 1.0, 0.5, ".3f"),
    ("blip-tiny", "nlvr2"): Floor("nlvr2_accuracy", "NLVR2 accuracy", 0.85, 0.30),
    ("blip-tiny", "vqa"): Floor("vqa_accuracy", "VQA accuracy", 0.80, 0.45),
}


def lines(model: str, limit: int | None = None) -> Lines:
    """(line, good) for each floor of each task that the weights can do on scenes, or on the first `limit` of them."""
    progress = Progress()
    found: Lines = []
    for name in measurable_tasks(model, None, BUILT_IN_WORLD):
        floor = FLOORS.get((model, name))
        if floor is None and name != "retrieval":
            continue
        measured = Measured(model, task_weights(model, None, name), name, BUILT_IN_WORLD, limit, progress)
        seen = measured.values()
        found += _retrieval(seen, len(measured.data.images)) if floor is None else floor.lines(seen, measured.blank())
    return found


class Measured:
    """Weights on a task and a built-in world's held-out scenes, dense."""

    def __init__(self, model: str, weights: Path, task: str, world: str, limit: int | None, progress: Progress) -> None:
        self.host, self.task, self.progress = load_host(model, weights, "cpu", "float32"), tasks.get(task)(), progress
        config = self.host.model.config
        annotations = self.task.load(data_folder(world, limit, progress), limit).in_order()
        self.data = TaskData(annotations, ImageStore(annotations.images, config.image_size, config.mean, config.std))

    def values(self) -> Values:
        """Every metric's value."""
        return self._values({})

    def blank(self) -> Values:
        """Every metric's value with the mean colour in the place of every image."""
        return self._values({"blank_images": True})

    @torch.no_grad()
    def _values(self, options: dict[str, Any]) -> Values:
        reducer = make_reducer("dense", open_tower(self.host.model.vision).shape)
        encoder = VisionEncoder(self.host, reducer, self.data.images, 64, self.progress)
        return self.task.evaluate(encoder, self.data, self.task.Options.model_validate(options)).values()


def _retrieval(seen: Values, images: int) -> Lines:
    oracle, recall = oracle_recall(images), seen["t2i_r1_rerank"]
    share = recall / oracle
    return [
        (f"oracle's text-to-image R@1 {oracle:.1%} (floor {ORACLE_FLOOR:.0%})", oracle >= ORACLE_FLOOR),
        (
            f"text-to-image R@1, re-ranked, {recall:.1%}, of the oracle's {share:.1%} (floor {ORACLE_SHARE_FLOOR:.0%})",
            share >= ORACLE_SHARE_FLOOR,
        ),
    ]
