"""Answers to questions whose annotations are not published, as the official server of VQA v2 takes them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness.data.formats import ImageTextSet, load_unanswered
from harness.data.image_store import ImageStore
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.task import TaskData
from harness.kit.distributed import run_together
from harness.kit.errors import HarnessError, is_out_of_memory
from harness.kit.progress import Progress
from harness.run.cell import Cell
from harness.run.grid import data_folder, plan_cells
from harness.run.measure import Measurer
from harness.run.request import RunRequest
from harness.tasks.vqa import VQAOptions, answers


def server_answers(
    cell: Cell, weights: Path | None, progress: Progress, tokenizer: str | None = None
) -> list[dict[str, Any]]:
    """[{"question_id", "answer"}] of a cell of task vqa in the order of the file, the same in every process.

    Raises HarnessError as `run` does, and where memory runs out.
    """
    measurer = Measurer(weights, progress, tokenizer)
    config = run_together(partial(measurer.config, cell))
    asked = run_together(partial(_asked, cell, progress))
    ordered = asked.in_order()
    data = TaskData(ordered, ImageStore(ordered.images, cell.image_size, config.mean, config.std))
    data.images.ready(progress)
    given = run_together(partial(_given, cell, measurer, data))
    by_id = {question.id: answer for question, answer in zip(ordered.questions, given, strict=True)}
    return [{"question_id": question.id, "answer": by_id[question.id]} for question in asked.questions]


def answering_cell(request: RunRequest, progress: Progress) -> Cell:
    """The cell of a request for one method at one budget; HarnessError for a budget of dense, which has none."""
    (method,) = request.methods
    if method == "dense" and (request.ratios not in (None, (1.0,)) or request.schedule or request.settings):
        raise HarnessError("answer: dense keeps every token: it has no ratio, schedule or settings; name a --method")
    cells = plan_cells(request, progress)  # dense comes before the method
    if len(cells) > 2:
        raise HarnessError("answer: --set names several values; answers are given under one setting at a time")
    return cells[-1]


def _given(cell: Cell, measurer: Measurer, data: TaskData) -> list[str]:
    try:
        host, reducer, *_ = measurer.subject(cell)
        encoder = VisionEncoder(host, reducer, data.images, cell.batch_size, measurer.progress)
        with torch.no_grad():
            given, _, _ = answers(encoder, data, VQAOptions.model_validate(cell.task_options))
    except Exception as error:
        if is_out_of_memory(error):
            line = f"answer: out of memory on {cell.device}; give a --batch-size below {cell.batch_size}"
            raise HarnessError(line) from error
        raise
    return given


def _asked(cell: Cell, progress: Progress) -> ImageTextSet:
    return load_unanswered(data_folder(cell.data, cell.limit, progress), cell.limit, cell.split)
