"""Whether shipped weights reach the floors they are promised to reach, dense, on 1,000 held-out scenes."""

from __future__ import annotations

import torch

from harness.cell import RunRequest
from harness.data.scenes import oracle_recall
from harness.evaluation import VisionEncoder
from harness.hosts import load_host
from harness.methods import make_reducer
from harness.models.towers import open_tower
from harness.progress import Progress
from harness.registry import tasks
from harness.runner import Bench, plan_cells

VQA_FLOOR, OVER_BLANK_FLOOR, ORACLE_FLOOR, ORACLE_SHARE_FLOOR = 0.90, 0.30, 0.60, 0.60


def measure(model: str) -> dict[str, float]:
    """VQA accuracy, the same with blank images, text-to-image R@1 after re-ranking, and the oracle's R@1."""
    request = RunRequest(methods=("dense",), model=model, tasks=("retrieval", "vqa"), device="cpu")
    host = load_host(model, None, "cpu", "float32")
    bench = Bench(None, Progress())
    found: dict[str, float] = {}
    for cell in plan_cells(request, bench.progress):
        data = bench.data(cell, host)
        task = tasks.get(cell.task)()
        variants = [("", {}), ("_blank", {"blank_images": True})] if cell.task == "vqa" else [("", {})]
        for suffix, options in variants:
            encoder = VisionEncoder(
                host,
                make_reducer("dense", open_tower(host.model.vision).shape),
                data.images,
                64,
                bench.progress,
            )
            with torch.no_grad():
                outcome = task.evaluate(encoder, data, task.Options.model_validate(options))
            found.update({metric + suffix: float(values.mean()) for metric, (_, _, values) in outcome.outcomes.items()})
        if cell.task == "retrieval":
            found["oracle_t2i_r1"] = oracle_recall(len(data.images))
    return found


def lines(model: str) -> list[tuple[str, bool]]:
    """(line, good) for each floor."""
    found = measure(model)
    vqa, blank, oracle, recall = (
        found["vqa_accuracy"],
        found["vqa_accuracy_blank"],
        found["oracle_t2i_r1"],
        found["t2i_r1_rerank"],
    )
    over, share = vqa - blank, recall / oracle
    return [
        (f"VQA accuracy {vqa:.1%} (floor {VQA_FLOOR:.0%})", vqa >= VQA_FLOOR),
        (f"above blank images ({blank:.1%}) by {over:.1%} (floor {OVER_BLANK_FLOOR:.0%})", over >= OVER_BLANK_FLOOR),
        (f"oracle's text-to-image R@1 {oracle:.1%} (floor {ORACLE_FLOOR:.0%})", oracle >= ORACLE_FLOOR),
        (
            f"text-to-image R@1, re-ranked, {recall:.1%}, of the oracle's {share:.1%} (floor {ORACLE_SHARE_FLOOR:.0%})",
            share >= ORACLE_SHARE_FLOOR,
        ),
    ]
