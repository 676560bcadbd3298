"""Questions with their annotators' answers: VQA v2, and ALBEF's list.

Samples and mirrors of VQA v2 leave image_id out of the annotations, so the question carries the image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.data.formats.captions import patches_of
from harness.data.formats.files import read_json, rows_with
from harness.data.formats.findings import Findings, report_repeated
from harness.data.formats.kinds import Found, Kind
from harness.data.formats.records import ImageTextSet, Question
from harness.data.formats.source import Source, first_images, words
from harness.errors import HarnessError

KINDS = (Kind.VQA_QUESTIONS, Kind.ALBEF_VQA)
ANSWERS_PER_QUESTION = 10


@dataclass(frozen=True)
class _Asked:
    """A question before its image is found; `key` tells the image from the others of the set."""

    key: Any
    id: int | str
    text: str
    answers: tuple[str, ...]
    patches: tuple[int, ...] | None = None
    answer_type: str | None = None


def load_questions(folder: Path | str, limit: int | None = None, split: str | None = None) -> ImageTextSet:
    """The questions of a folder, or file, with their answers; `limit` keeps the first images asked about.

    `split` chooses among files (None: test, or else val, dev, train, of those that have answers). Raises HarnessError,
    one line, for a folder without such files, malformed files, questions that are empty, unanswered or of one id, and
    missing images.
    """
    return read_questions(Source(folder), Findings(), limit, split)


def read_questions(
    source: Source, findings: Findings, limit: int | None = None, split: str | None = None
) -> ImageTextSet:
    """`load_questions`, with what is wrong told to `findings`."""
    found, partner = choose_questions(source, split)
    asked, locate = _vqa_v2(source, found, partner, findings) if partner else _albef(source, found, findings)
    report_repeated(findings, "repeated question ids", f"{found.path}: questions", (one.id for one in asked))
    images = first_images((one.key for one in asked), limit, locate, findings)
    kept = [
        Question(one.id, images[one.key], one.text, one.answers, one.patches, one.answer_type)
        for one in asked
        if one.key in images and _is_whole(found.path, one, findings)
    ]
    if not kept:
        findings.fault("sets without questions", f"{found.path}: holds no questions about images that are there")
    used = {question.image for question in kept}
    return ImageTextSet(
        tuple(path for path in dict.fromkeys(images.values()) if path in used),
        questions=tuple(kept),
        answers=_answer_list(source),
    )


def choose_questions(source: Source, split: str | None) -> tuple[Found, Found | None]:
    """The file that questions are read from, and VQA v2's file of their answers."""
    asked, answered = source.of(Kind.VQA_QUESTIONS), source.of(Kind.VQA_ANNOTATIONS)
    partners = {one.path: _partner(one, asked, answered) for one in asked}
    candidates = [one for one in asked if partners[one.path]] + source.of(Kind.ALBEF_VQA)
    if asked and not candidates:
        raise HarnessError(f"data {source.where}: no VQA v2 annotations for {asked[0].path.name}; put them beside it")
    found, _ = source.choose(candidates, "questions with answers", KINDS, split)
    return found, partners.get(found.path)


def _partner(asked: Found, questions: list[Found], annotations: list[Found]) -> Found | None:
    """The annotations of a file of questions: the only ones, or those of the same subset, or else split."""
    if len(questions) == len(annotations) == 1:
        return annotations[0]
    same = [one for one in annotations if (one.subset or one.splits) == (asked.subset or asked.splits)]
    return same[0] if len(same) == 1 else None


def _vqa_v2(
    source: Source, found: Found, partner: Found, findings: Findings
) -> tuple[list[_Asked], Callable[[Any], Path]]:
    path, there = found.path, partner.path
    rows = rows_with(path, read_json(path)["questions"], {"question_id", "image_id", "question"})
    annotations = rows_with(there, read_json(there)["annotations"], {"question_id", "answers"})
    report_repeated(
        findings, "repeated annotations", f"{there}: annotations", (row["question_id"] for row in annotations)
    )
    answers = {row["question_id"]: row for row in annotations}
    asked = []
    for row in rows:
        key = row["question_id"]
        if key not in answers:
            line = f"{there}: no annotation for question {key} of {path.name}; add it or drop the question"
            findings.fault("questions without annotation", line)
            continue
        texts = tuple(str(one["answer"]) for one in rows_with(there, answers[key]["answers"], {"answer"}))
        about, kind = answers[key], answers[key].get("answer_type")
        asked.append(_Asked(row["image_id"], key, words(row["question"]), texts, patches_of(about), kind))
    known = {row["question_id"] for row in rows}
    for key in [key for key in answers if key not in known]:
        findings.odd("annotations without a question", f"{there}: annotates question {key}, which {path.name} lacks")
    return asked, lambda key: source.listing.numbered(path, key, found.subset)


def _albef(source: Source, found: Found, findings: Findings) -> tuple[list[_Asked], Callable[[Any], Path]]:
    """ALBEF's list; `answer` is the list of annotators' answers, or for questions of Visual Genome one text."""
    path, asked = found.path, list[_Asked]()
    for number, row in enumerate(rows_with(path, read_json(path), {"image", "question", "answer"})):
        texts = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
        answers = tuple(str(text) for text in texts)
        asked.append(_Asked(str(row["image"]), row.get("question_id", number), words(row["question"]), answers))
    return asked, lambda key: source.listing.named(path, key)


def _is_whole(path: Path, question: _Asked, findings: Findings) -> bool:
    if not question.text:
        findings.fault("empty questions", f"{path}: question {question.id} is empty or no text; leave it out")
    elif not question.answers:
        findings.fault("questions without answers", f"{path}: question {question.id} has no answers; leave it out")
    else:
        if len(question.answers) < ANSWERS_PER_QUESTION:
            count = f"{len(question.answers)} of {ANSWERS_PER_QUESTION}"
            findings.odd("questions with fewer than 10 answers", f"{path}: question {question.id} has {count} answers")
        return True
    return False


def _answer_list(source: Source) -> tuple[str, ...]:
    lists = source.of(Kind.ANSWER_LIST)
    if len(lists) > 1:
        names = ", ".join(str(one.path.relative_to(source.root)) for one in lists)
        raise HarnessError(f"data {source.where}: several lists of answers ({names}); keep one of them in the folder")
    return tuple(read_json(lists[0].path)) if lists else ()
