"""Visual question answering: the answers of a closed list are ranked, and scored by the accuracy of VQA v2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.data.formats import ImageTextSet, Question, load_questions
from harness.errors import HarnessError
from harness.evaluation import Texts, VisionEncoder
from harness.metrics.vqa import ANSWER_TYPES, answer_type, vqa_accuracy
from harness.task import BlindOptions, Outcome, Task, TaskData, TaskOptions

BY_TYPE = {"yes/no": "vqa_yes_no", "number": "vqa_number", "other": "vqa_other"}


class VQA(Task):
    """Each host ranks the answers its own way (`answer_scores`): ALBEF's tiny preset by the word at a [MASK].

    Text-guided methods encode the image anew for each question. `vqa_yes_no`, `vqa_number` and `vqa_other` are the
    accuracy of the questions of one answer type; a set without such questions has no such metric.
    """

    Options = BlindOptions
    NEEDS = frozenset({"answer"})
    READS = "questions"
    metrics = ("vqa_accuracy", *BY_TYPE.values())

    def load(self, folder: Any, limit: int | None, split: str | None = None) -> ImageTextSet:
        return load_questions(folder, limit, split)

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, BlindOptions)
        host, questions = encoder.host, data.annotations.questions
        if not questions:
            raise HarnessError("vqa: the data has no questions")
        if not host.answers:
            raise HarnessError(f"vqa: {host.name} comes without a closed list of answers; fine-tune it on vqa first")
        if options.blank_images:
            encoder.show_blank()
        texts = Texts(host, [question.text for question in questions], questions=True)
        owners = data.places(question.image for question in questions)
        picks = answered(encoder, texts, owners).tolist()
        names = data.names
        clusters = [names[owner] for owner in owners.tolist()]
        outcomes = accuracies([host.answers[pick] for pick in picks], questions, clusters)
        diagnostics = encoder.mentioned(owners, texts, [question.patches for question in questions])
        return Outcome("vqa", outcomes, encoder.throughput("questions", len(questions)), diagnostics)


def answered(encoder: VisionEncoder, texts: Texts, owners: Tensor) -> Tensor:
    """The place (S,) in the closed list of the host's answer to each question."""
    host = encoder.host
    answers = on_device(host.model.answers(host.tokenizer, host.answers), host.device)

    def best(rows: Tensor) -> Tensor:
        asked = texts.rows(rows)
        return host.model.answer_scores(asked, encoder.pair_states(owners[rows.cpu()], asked), answers).argmax(1)

    return encoder.over(len(owners), best, "questions", images=owners)


def accuracies(
    given: Sequence[str], questions: Sequence[Question], clusters: Sequence[str]
) -> dict[str, tuple[Sequence[str], Sequence[str], np.ndarray]]:
    """Outcomes by metric: of all questions, and of those of each answer type that there are."""
    values = np.array([vqa_accuracy(answer, question.answers) for answer, question in zip(given, questions)])
    samples = np.array([str(question.id) for question in questions])
    kinds = np.array([question.answer_type or answer_type(question.answers) for question in questions])
    chosen = {"vqa_accuracy": np.ones(len(values), dtype=bool)}
    chosen |= {BY_TYPE[kind]: kinds == kind for kind in ANSWER_TYPES if (kinds == kind).any()}
    return {
        metric: (samples[rows].tolist(), np.array(clusters)[rows].tolist(), values[rows])
        for metric, rows in chosen.items()
    }


def on_device(value: Any, device: torch.device) -> Any:
    """A tensor, or a tuple of them, on a device."""
    return tuple(part.to(device) for part in value) if isinstance(value, tuple) else value.to(device)
