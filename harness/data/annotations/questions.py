"""Sets of questions with their annotators' answers."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from harness.data.annotations.answer_list import ANSWER_LIST, answer_list_of
from harness.data.annotations.findings import Findings, report_repeated
from harness.data.annotations.format import Format, Found, Source
from harness.data.annotations.records import ImageTextSet, Question
from harness.data.annotations.report import Examination, Report, counted, phrases, spread
from harness.data.annotations.rows import rows_with, shown, text_fault
from harness.data.annotations.source import first_images, opened
from harness.kit.errors import HarnessError
from harness.kit.reading import read_json

ANSWERS_PER_QUESTION = 10


@dataclass(frozen=True)
class Asked:
    """A question before its image is found; `key` tells the image from the others of the set."""

    key: Any
    id: int | str
    text: Any
    answers: tuple[Any, ...]
    patches: tuple[int, ...] | None = None
    answer_type: str | None = None


class QuestionFormat(Format):
    """A format of questions about images."""

    fills: ClassVar[str] = "questions"
    noun: ClassVar[str] = "questions with answers"

    def beside(self, source: Source, found: Found) -> list[Path]:
        """The closed list that is ranked."""
        return [one.path for one in source.of(ANSWER_LIST)]

    @abstractmethod
    def asked(self, source: Source, found: Found, findings: Findings, *, answered: bool) -> list[Asked]:
        """The questions of a file, with their answers where these are wanted."""

    @abstractmethod
    def image_of(self, source: Source, found: Found, key: Any) -> Path:
        """The image that a question's key names."""

    def read(
        self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings, limit: int | None = None
    ) -> ImageTextSet:
        return self._of_images(source, found, findings, limit, answered=True)

    def read_unanswered(self, source: Source, found: Found, findings: Findings, limit: int | None) -> ImageTextSet:
        """The questions without their answers, which need not be there."""
        if self.lacks(source, found):
            line = f"{found.path}: no answers in it and no annotations beside it; the server of VQA v2 scores answers"
            findings.odd("questions without annotations", line)
        return self._of_images(source, found, findings, limit, answered=False)

    def counts(self, data: ImageTextSet) -> list[str]:
        answers = [(one.id, answer) for one in data.questions for answer in one.answers]
        each = spread((key for key, _ in answers), "answers")
        different = counted(len({answer for _, answer in answers}), "different answer")
        closed = f"a list of {counted(len(data.answers), 'answer')}, which are ranked" if data.answers else ""
        return [phrases(counted(len(data.questions), "question"), each, different if answers else ""), closed]

    def describe(self, source: Source, examination: Examination) -> list[Report]:
        """Questions without answers are for the server of VQA v2."""

        def read(findings: Findings) -> tuple[Found, ImageTextSet]:
            found, one = choose_unanswered(source, None)
            return found, one.read_unanswered(source, found, findings, None)

        def commands(found: Found) -> list[list[str]]:
            return [["answer", "--method", "elip", "--data", str(source.where), "--out", "answers.json"]]

        def counts(data: ImageTextSet) -> list[str]:
            return [counted(len(data.questions), "question")]

        return [examination.report(self.files[0].title, read, counts, commands)]

    def _of_images(
        self, source: Source, found: Found, findings: Findings, limit: int | None, *, answered: bool
    ) -> ImageTextSet:
        """The set of the questions about the first `limit` images; `answered`: they must have answers."""
        asked = self.asked(source, found, findings, answered=answered)
        report_repeated(findings, "repeated question ids", f"{found.path}: questions", (one.id for one in asked))
        images = first_images((one.key for one in asked), limit, partial(self.image_of, source, found), findings)
        kept = [
            Question(one.id, images[one.key], one.text.strip(), one.answers, one.patches, one.answer_type)
            for one in (one if answered else replace(one, answers=()) for one in asked)
            if one.key in images and _is_whole(found.path, one, findings, answered=answered)
        ]
        if not kept:
            findings.fault("sets without questions", f"{found.path}: holds no questions about images that are there")
        used = {question.image for question in kept}
        return ImageTextSet(
            tuple(path for path in dict.fromkeys(images.values()) if path in used),
            questions=tuple(kept),
            answers=answer_list_of(source, findings),
        )


def load_unanswered(where: Path | str, limit: int | None = None, split: str | None = None) -> ImageTextSet:
    """Questions whose answers are not published, or are of no interest; HarnessError as for those with answers."""
    source = opened(where)
    found, one = choose_unanswered(source, split)
    return one.read_unanswered(source, found, Findings(), limit)


def choose_unanswered(source: Source, split: str | None) -> tuple[Found, QuestionFormat]:
    """The file that questions are read from where nothing else is wanted."""
    source.of()
    sets = [one for one in source.meant if one.is_set and isinstance(one.format, QuestionFormat)]
    if not sets:
        raise HarnessError(f"data {source.where}: no questions in it; expected those of VQA v2, or a list of them")
    found, one, _ = source.chosen(sets, split)
    assert isinstance(one, QuestionFormat)
    return found, one


def _is_whole(path: Path, question: Asked, findings: Findings, *, answered: bool) -> bool:
    fault = text_fault(question.text)
    odd = [one for one in question.answers if not isinstance(one, str) or text_fault(one) == text_fault("\ud800")]
    if fault is not None:
        findings.fault(f"{fault[0]} questions", f"{path}: question {question.id} {fault[1]}; leave it out")
    elif answered and not question.answers:
        findings.fault("questions without answers", f"{path}: question {question.id} has no answers; leave it out")
    elif odd:
        line = f"{path}: question {question.id} has the answer {shown(odd[0])}, which is no text; correct it"
        findings.fault("questions with an answer that is no text", line)
    else:
        if answered and len(question.answers) < ANSWERS_PER_QUESTION:
            count = f"{len(question.answers)} of {ANSWERS_PER_QUESTION}"
            findings.odd("questions with fewer than 10 answers", f"{path}: question {question.id} has {count} answers")
        return True
    return False


def listed_questions(path: Path, needed: set[str], answers: set[str]) -> list[Asked]:
    """A list of image and question; `needed`: what else every entry must have; `answers`: the field of its answers."""
    asked = list[Asked]()
    for number, row in enumerate(rows_with(path, read_json(path), {"image", "question"} | needed | answers)):
        given = row.get("answer", [])
        texts = tuple(given if isinstance(given, list) else [given])
        asked.append(Asked(str(row["image"]), row.get("question_id", number), row["question"], texts))
    return asked
