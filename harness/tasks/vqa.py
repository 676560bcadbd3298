"""Visual question answering: answers are ranked, or generated, and scored by the accuracy of VQA v2."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from harness.data.annotations.answer_list import read_answer_list
from harness.data.formats import ImageTextSet, Question, load_questions
from harness.evaluate.encoder import Texts, VisionEncoder
from harness.evaluate.task import BlindOptions, Outcome, Task, TaskData, TaskOptions
from harness.hosts.ready import Host
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.kit.files import file_digest
from harness.metrics.quantity import Quantity
from harness.metrics.ranking import require_numbers
from harness.metrics.vqa import ANSWER_TYPES, answer_type, vqa_accuracy

BY_TYPE = {"yes/no": "vqa_yes_no", "number": "vqa_number", "other": "vqa_other"}
SHOWN = 20
_warn_once = cache(warn_on_stderr)


class VQAOptions(BlindOptions):
    """inference: rank the closed list, or generate answers in the host's own words (BLIP), as its released program can.

    answers: a JSON list to rank, in place of the set's own or the weights'; answers_digest tells its content.
    beams, max_length and min_length are of generated answers; lengths in tokens, with the first.
    """

    inference: Literal["rank", "generate"] = "rank"
    answers: str | None = None
    answers_digest: str | None = None
    beams: PositiveInt = 3
    max_length: PositiveInt = 10
    min_length: NonNegativeInt = 1

    @model_validator(mode="after")
    def _digested(self) -> Self:
        digest = None if self.answers is None else file_digest(Path(self.answers))
        if self.answers_digest is not None and digest != self.answers_digest:
            raise HarnessError(f"--answers {self.answers}: its content has changed since the command began; run again")
        if self.answers is not None:
            read_answer_list(Path(self.answers))  # before the first cell, where no list can be read
        object.__setattr__(self, "answers_digest", digest)
        return self


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

    def check(self, host: Host, annotations: ImageTextSet, options: TaskOptions) -> None:
        assert isinstance(options, VQAOptions)
        if options.inference == "rank":
            closed = closed_list(host, annotations, options)
            host.model.answers(host.tokenizer, closed.answers)
            if closed.unsayable:
                _warn_once(f"vqa: {host.name} has no word for {closed.unsayable:,} answers of the list; it gives none")

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, VQAOptions)
        questions = data.annotations.questions
        given, texts, owners = answers(encoder, data, options)
        names = data.names
        clusters = [names[owner] for owner in owners.tolist()]
        outcomes = accuracies(given, questions, clusters)
        diagnostics = encoder.mentioned(owners, texts, [question.patches for question in questions])
        if options.inference == "rank":
            diagnostics["closed_list"] = closed_list(encoder.host, data.annotations, options).account()
        else:
            diagnostics["answers"] = {str(question.id): text for question, text in zip(questions[:SHOWN], given)}
        return Outcome("vqa", outcomes, encoder.throughput("questions", len(questions)), diagnostics)


def answers(encoder: VisionEncoder, data: TaskData, options: VQAOptions) -> tuple[list[str], Texts, Tensor]:
    """The host's answer to each question of the data, the questions as texts, and the image (Q,) of each."""
    host, questions = encoder.host, data.annotations.questions
    if not questions:
        raise HarnessError("vqa: the data has no questions")
    ranked = options.inference == "rank"
    closed = closed_list(host, data.annotations, options).answers if ranked else ()
    if options.blank_images:
        encoder.show_blank()
    texts = Texts(host, [question.text for question in questions], questions=True)
    owners = data.places(question.image for question in questions)
    given = picked(encoder, texts, owners, closed) if ranked else generated(encoder, texts, owners, options)
    return given, texts, owners


@dataclass(frozen=True)
class ClosedList:
    """The answers that a host ranks, where they come from, and how many others it has no word for."""

    answers: tuple[str, ...]
    source: Literal["--answers", "data", "weights"]
    unsayable: int = 0

    def account(self) -> dict[str, Any]:
        """What a record says of it."""
        return {"source": self.source, "answers": len(self.answers), "unsayable": self.unsayable}


def closed_list(host: Host, annotations: ImageTextSet, options: VQAOptions) -> ClosedList:
    """What is ranked: the list that was named, or else that of the data, or else that of the weights.

    A host whose answers are classes has them in the order of its weights' list, which no list of the data replaces.
    Answers that a host has no word for are left out. HarnessError where nothing is left.
    """
    named = () if options.answers is None else read_answer_list(Path(options.answers))
    if "answer_classes" in type(host.model.config).model_fields:
        if named and host.answers not in ((), named):
            raise HarnessError(
                f"--answers {options.answers}: {host.name} answers by class, in the order of the list that came with "
                "its weights; leave it out, or fine-tune with this list"
            )
        found = ClosedList(host.answers or named, "weights" if host.answers else "--answers")
    elif named:
        found = _sayable(host, named, "--answers")
        if not found.answers:
            raise HarnessError(f"--answers {options.answers}: {host.name} has a word for none of its answers")
    else:
        found = _sayable(host, annotations.answers, "data")
        found = found if found.answers else ClosedList(host.answers, "weights", found.unsayable)
    if not found.answers:
        raise HarnessError(
            f"vqa: {host.name} comes without a closed list of answers, and the data brings none; name one with "
            "--answers, or fine-tune the host on vqa first"
        )
    return found


def _sayable(host: Host, answers: Sequence[str], source: Literal["--answers", "data"]) -> ClosedList:
    said = host.model.sayable(host.tokenizer, answers)
    return ClosedList(said, source, len(answers) - len(said))


def picked(encoder: VisionEncoder, texts: Texts, owners: Tensor, answers: Sequence[str]) -> list[str]:
    """Of the closed list, the host's answer to each question; of equal scores the earlier one."""
    host = encoder.host
    closed = on_device(host.model.answers(host.tokenizer, answers), host.device)

    def best(rows: Tensor) -> Tensor:
        asked = texts.rows(rows)
        scores_BA = host.model.answer_scores(asked, encoder.pair_tokens(owners[rows.cpu()], asked), closed)
        require_numbers(scores_BA)
        return scores_BA.argmax(1)

    return [answers[pick] for pick in encoder.map_shared(len(owners), best, "questions", images=owners).tolist()]


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
