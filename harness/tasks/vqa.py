"""Visual question answering: answers are ranked, or generated, and scored by the accuracy of VQA v2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from harness.data.formats import ImageTextSet, Question, load_questions
from harness.evaluate.encoder import Texts, VisionEncoder
from harness.evaluate.task import BlindOptions, Outcome, Task, TaskData, TaskOptions
from harness.kit.errors import HarnessError
from harness.metrics.quantity import Quantity
from harness.metrics.ranking import require_numbers
from harness.metrics.vqa import ANSWER_TYPES, answer_type, vqa_accuracy

BY_TYPE = {"yes/no": "vqa_yes_no", "number": "vqa_number", "other": "vqa_other"}
SHOWN = 20


class VQAOptions(BlindOptions):
    """inference: rank the closed list, or generate answers in the host's own words (BLIP), as its released program can.

    beams, max_length and min_length are of generated answers; lengths in tokens, with the first.
    """

    inference: Literal["rank", "generate"] = "rank"
    beams: PositiveInt = 3
    max_length: PositiveInt = 10
    min_length: NonNegativeInt = 1


class VQA(Task):
    """Each host ranks the answers its own way (`answer_scores`): ALBEF's tiny preset by the word at a [MASK].

    A host with a decoder of its own may generate them instead (`say_answers`).

    Text-guided methods encode the image anew for each question. `vqa_yes_no`, `vqa_number` and `vqa_other` are the
    accuracy of the questions of one answer type; a set without such questions has no such metric.
    """

    Options = VQAOptions
    NEEDS = frozenset({"answer"})
    READS = "questions"
    quantities = (
        Quantity("vqa_accuracy", "VQA accuracy"),
        Quantity("vqa_number", "VQA number", headline=False),
        Quantity("vqa_other", "VQA other", headline=False),
        Quantity("vqa_yes_no", "VQA yes no", headline=False),
    )

    def load(self, folder: Any, limit: int | None, split: str | None = None) -> ImageTextSet:
        return load_questions(folder, limit, split)

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, VQAOptions)
        questions = data.annotations.questions
        given, texts, owners = answers(encoder, data, options)
        names = data.names
        clusters = [names[owner] for owner in owners.tolist()]
        outcomes = accuracies(given, questions, clusters)
        diagnostics = encoder.mentioned(owners, texts, [question.patches for question in questions])
        if options.inference == "generate":
            diagnostics["answers"] = {str(question.id): text for question, text in zip(questions[:SHOWN], given)}
        return Outcome("vqa", outcomes, encoder.throughput("questions", len(questions)), diagnostics)


def answers(encoder: VisionEncoder, data: TaskData, options: VQAOptions) -> tuple[list[str], Texts, Tensor]:
    """The host's answer to each question of the data, the questions as texts, and the image (Q,) of each."""
    host, questions = encoder.host, data.annotations.questions
    if not questions:
        raise HarnessError("vqa: the data has no questions")
    ranked = options.inference == "rank"
    if ranked and not host.answers:
        raise HarnessError(f"vqa: {host.name} comes without a closed list of answers; fine-tune it on vqa first")
    if options.blank_images:
        encoder.show_blank()
    texts = Texts(host, [question.text for question in questions], questions=True)
    owners = data.places(question.image for question in questions)
    given = picked(encoder, texts, owners) if ranked else generated(encoder, texts, owners, options)
    return given, texts, owners


def picked(encoder: VisionEncoder, texts: Texts, owners: Tensor) -> list[str]:
    """Of the closed list, the host's answer to each question; of equal scores the earlier one."""
    host = encoder.host
    closed = on_device(host.model.answers(host.tokenizer, host.answers), host.device)

    def best(rows: Tensor) -> Tensor:
        asked = texts.rows(rows)
        scores_BA = host.model.answer_scores(asked, encoder.pair_tokens(owners[rows.cpu()], asked), closed)
        require_numbers(scores_BA)
        return scores_BA.argmax(1)

    return [host.answers[pick] for pick in encoder.map_shared(len(owners), best, "questions", images=owners).tolist()]


def generated(encoder: VisionEncoder, texts: Texts, owners: Tensor, options: VQAOptions) -> list[str]:
    """What the host answers each question in its own words."""
    host = encoder.host
    search = {"beams": options.beams, "max_length": options.max_length, "min_length": options.min_length}

    def said(rows: Tensor) -> Tensor:
        asked = texts.rows(rows)
        return host.model.say_answers(asked, encoder.pair_tokens(owners[rows.cpu()], asked), **search)

    return [
        host.tokenizer.decode(row) for row in encoder.map_shared(len(owners), said, "questions", images=owners).tolist()
    ]


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
