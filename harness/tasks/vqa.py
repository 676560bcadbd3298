"""Visual question answering: the answers of a closed list are ranked, and scored by the accuracy of VQA v2."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from harness.data.formats import ImageTextSet, load_questions
from harness.errors import HarnessError
from harness.evaluation import VisionEncoder, batches, encode_texts
from harness.task import Outcome, Task, TaskData, TaskOptions


class VQAOptions(TaskOptions):
    """blank_images: show the mean colour instead of every image, to see what questions alone give away."""

    blank_images: bool = False


class VQA(Task):
    """Each host ranks the answers its own way (`answer_scores`): ALBEF's tiny preset by the word at a [MASK].

    Text-guided methods encode the image anew for each question.
    """

    Options = VQAOptions
    metrics = ("vqa_accuracy",)

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
        values = np.array(
            [vqa_accuracy(host.answers[pick], question.answers) for pick, question in zip(picks, questions)]
        )
        samples = [str(question.id) for question in questions]
        names = data.names
        clusters = [names[place[question.image]] for question in questions]
        diagnostics = encoder.mentioned(owners, texts, [question.patches for question in questions])
        return Outcome("vqa", {"vqa_accuracy": (samples, clusters, values)}, diagnostics)


def on_device(value: Any, device: torch.device) -> Any:
    """A tensor, or a tuple of them, on a device."""
    return tuple(part.to(device) for part in value) if isinstance(value, tuple) else value.to(device)


def vqa_accuracy(answer: str, truths: Sequence[str]) -> float:
    """VQA v2's accuracy: mean over the leave-one-out sets of truths of min(matches / 3, 1); both sides lower-cased.

    With fewer than two truths there is nothing to leave out: plain agreement.
    """
    given = answer.strip().lower()
    matches = [truth.strip().lower() == given for truth in truths]
    if len(matches) < 2:
        return float(any(matches))
    total = sum(matches)
    return float(np.mean([min((total - match) / 3, 1.0) for match in matches]))
