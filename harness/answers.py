"""Answers to questions whose annotations are not published, as the official server of VQA v2 takes them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from harness.bench import Bench
from harness.cell import Cell, RunRequest
from harness.data.formats import ImageTextSet, load_unanswered
from harness.data.image_store import ImageStore
from harness.evaluation import VisionEncoder
from harness.grid import data_folder, plan_cells
from harness.parallel import agreed, by_first
from harness.progress import Progress
from harness.task import TaskData
from harness.tasks.vqa import VQAOptions, answers


def server_answers(request: RunRequest, progress: Progress) -> list[dict[str, Any]]:
    """[{"question_id", "answer"}] in the order of the file, the same in every process.

    Of a request for one method at one budget, task vqa; raises HarnessError as `run` does.
    """
    cell = by_first(lambda: plan_cells(request, progress)[-1])  # dense comes before the method
    bench = Bench(request.weights, progress)
    config = agreed(partial(bench.config, cell))
    asked = agreed(partial(_asked, cell, progress))
    ordered = asked.in_order()
    data = TaskData(ordered, ImageStore(ordered.images, cell.image_size, config.mean, config.std))
    data.images.ready(progress)
    host, reducer, _ = bench.subject(cell)
    encoder = VisionEncoder(host, reducer, data.images, cell.batch_size, progress)
    with torch.no_grad():
        given, _, _ = answers(encoder, data, VQAOptions.model_validate(cell.task_options))
    by_id = {question.id: answer for question, answer in zip(ordered.questions, given, strict=True)}
    return [{"question_id": question.id, "answer": by_id[question.id]} for question in asked.questions]


def _asked(cell: Cell, progress: Progress) -> ImageTextSet:
    return load_unanswered(data_folder(cell.data, cell.limit, progress), cell.limit, cell.split)
