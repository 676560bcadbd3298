"""Whether shipped weights reach the floors they are promised to reach, dense, on 1,000 held-out scenes."""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.able import able_tasks
from harness.cell import RunRequest
from harness.data.scenes import BUILT_IN_WORLD, oracle_recall
from harness.evaluation import VisionEncoder
from harness.hosts import load_host
from harness.methods import make_reducer
from harness.models.towers import open_tower
from harness.progress import Progress
from harness.registry import tasks
from harness.runner import Bench, plan_cells

VQA_FLOOR, OVER_BLANK_FLOOR, ORACLE_FLOOR, ORACLE_SHARE_FLOOR = 0.90, 0.30, 0.60, 0.60
CIDER_FLOOR, CIDER_OVER_BLANK_FLOOR = 1.0, 0.5
Lines = list[tuple[str, bool]]


def lines(model: str, limit: int | None = None) -> Lines:
    """(line, good) for each floor of each task that the weights can do on scenes, or on the first `limit` of them."""
    names = tuple(name for name in able_tasks(model, None, BUILT_IN_WORLD) if name in FLOORS)
    request = RunRequest(methods=("dense",), model=model, tasks=names, device="cpu", limit=limit)
    host = load_host(model, None, "cpu", "float32")
    bench = Bench(None, Progress())
    reducer = make_reducer("dense", open_tower(host.model.vision).shape)
    found: Lines = []
    for cell in plan_cells(request, bench.progress):
        data, task = bench.data(cell, host), tasks.get(cell.task)()
        seen = {}
        for name, images in (("", data.images), ("blank", torch.zeros_like(data.images))):
            if name and cell.task == "retrieval":
                continue  # blank images are all alike: nothing to be ranked
            encoder = VisionEncoder(host, reducer, images, 64, bench.progress)
            with torch.no_grad():
                outcome = task.evaluate(encoder, data, task.Options())
            seen[name] = {metric: float(values.mean()) for metric, (_, _, values) in outcome.outcomes.items()}
        found += FLOORS[cell.task](seen, len(data.images))
    return found


def _retrieval(seen: dict[str, dict[str, float]], images: int) -> Lines:
    oracle, recall = oracle_recall(images), seen[""]["t2i_r1_rerank"]
    share = recall / oracle
    return [
        (f"oracle's text-to-image R@1 {oracle:.1%} (floor {ORACLE_FLOOR:.0%})", oracle >= ORACLE_FLOOR),
        (
            f"text-to-image R@1, re-ranked, {recall:.1%}, of the oracle's {share:.1%} (floor {ORACLE_SHARE_FLOOR:.0%})",
            share >= ORACLE_SHARE_FLOOR,
        ),
    ]


def _vqa(seen: dict[str, dict[str, float]], images: int) -> Lines:
    vqa, blank = seen[""]["vqa_accuracy"], seen["blank"]["vqa_accuracy"]
    over = vqa - blank
    return [
        (f"VQA accuracy {vqa:.1%} (floor {VQA_FLOOR:.0%})", vqa >= VQA_FLOOR),
        (f"above blank images ({blank:.1%}) by {over:.1%} (floor {OVER_BLANK_FLOOR:.0%})", over >= OVER_BLANK_FLOOR),
    ]


def _captioning(seen: dict[str, dict[str, float]], images: int) -> Lines:
    cider, blank = seen[""]["cider"], seen["blank"]["cider"]
    over = cider - blank
    return [
        (f"captions' CIDEr {cider:.3f} (floor {CIDER_FLOOR:g})", cider >= CIDER_FLOOR),
        (
            f"above blank images ({blank:.3f}) by {over:.3f} (floor {CIDER_OVER_BLANK_FLOOR:g})",
            over >= CIDER_OVER_BLANK_FLOOR,
        ),
    ]


FLOORS: dict[str, Callable[[dict[str, dict[str, float]], int], Lines]] = {
    "retrieval": _retrieval,
    "vqa": _vqa,
    "captioning": _captioning,
}
