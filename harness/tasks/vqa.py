"""Visual question answering: the answers of a closed list are ranked, and scored by the accuracy of VQA v2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from harness.data.formats import ImageTextSet, Question, load_questions
from harness.errors import HarnessError
from harness.evaluation import VisionEncoder, batches, encode_texts
from harness.metrics.vqa import ANSWER_TYPES, answer_type, vqa_accuracy
from harness.task import Outcome, Task, TaskData, TaskOptions

BY_TYPE = {"yes/no": "vqa_yes_no", "number": "vqa_number", "other": "vqa_other"}


class VQAOptions(TaskOptions):
    """blank_images: show the mean colour instead of every image, to see what questions alone give away."""

    blank_images: bool = False


class VQA(Task):
    """Each host ranks the answers its own way (`answer_scores`): ALBEF's tiny preset by the word at a [MASK].

    Text-guided methods encode the image anew for each question. `vqa_yes_no`, `vqa_number` and `vqa_other` are the
    accuracy of the questions of one answer type; a set without such questions has no such metric.
    """

    Options = VQAOptions
    NEEDS = frozenset({"answer"})
    READS = "questions"
    metrics = ("vqa_accuracy", *BY_TYPE.values())

    def load(self, folder: Any, limit: int | None) -> ImageTextSet:
        return load_questions(folder, limit)

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, VQAOptions)
        host, questions = encoder.host, data.annotations.questions
        if not questions:
            raise HarnessError("vqa: the data has no questions")
        if options.blank_images:
            encoder.images = torch.zeros_like(encoder.images)
        place = {image: index for index, image in enumerate(data.annotations.images)}
        owners = torch.tensor([place[question.image] for question in questions], device=host.device)
        texts = encode_texts(host, [question.text for question in questions], 4 * encoder.batch_size, questions=True)
        if not host.answers:
            raise HarnessError(f"vqa: {host.name} comes without a closed list of answers; fine-tune it on vqa first")
        answers = on_device(host.model.answers(host.tokenizer, host.answers), host.device)
        picks: list[int] = []
        with encoder.progress.bar("questions", len(questions)) as bar:
            for part in batches(len(questions), encoder.batch_size):
                rows = torch.arange(part.start, part.stop, device=host.device)
                asked = texts.rows(rows)
                states = encoder.pair_states(owners[rows], asked)
                picks += host.model.answer_scores(asked, states, answers).argmax(1).tolist()
                bar.advance(len(rows))
        names = data.names
        clusters = [names[place[question.image]] for question in questions]
        outcomes = accuracies([host.answers[pick] for pick in picks], questions, clusters)
        diagnostics = encoder.mentioned(owners, texts, [question.patches for question in questions])
        return Outcome("vqa", outcomes, diagnostics)


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
