"""Questions with their annotators' answers: VQA v2, and ALBEF's list.

Samples and mirrors of VQA v2 leave image_id out of the annotations, so the question carries the image.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.data.formats.captions import patches_of
from harness.data.formats.files import read_json, rows_with
from harness.data.formats.findings import Findings, report_repeated
from harness.data.formats.kinds import Found, Kind
from harness.data.formats.records import ImageTextSet, Question
from harness.data.formats.source import Source, first_images, words
from harness.kit.errors import HarnessError

KINDS = (Kind.VQA_QUESTIONS, Kind.ALBEF_VQA)
UNANSWERED_KINDS = (*KINDS, Kind.ALBEF_VQA_UNANSWERED)
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
    asked = _vqa_v2(found, partner, findings) if partner else _albef(found)
    return _of_images(source, found, asked, findings, limit, answered=True)


def load_unanswered(where: Path | str, limit: int | None = None, split: str | None = None) -> ImageTextSet:
    """As `load_questions`, of questions whose answers are not published; those that are there are not read."""
    return read_unanswered(Source(where), Findings(), limit, split)


def read_unanswered(
    source: Source, findings: Findings, limit: int | None = None, split: str | None = None
) -> ImageTextSet:
    """`load_unanswered`, with what is wrong told to `findings`."""
    found, _ = choose_unanswered(source, split)
    if is_unanswered(source):
        line = f"{found.path}: no answers in it and no annotations beside it; the server of VQA v2 scores answers"
        findings.odd("questions without annotations", line)
    rows = _questions_of(found) if found.kind is Kind.VQA_QUESTIONS else _albef(found, {"question_id"})
    asked = [replace(one, answers=()) for one in rows]
    return _of_images(source, found, asked, findings, limit, answered=False)


def choose_unanswered(source: Source, split: str | None) -> tuple[Found, None]:
    """The file that questions are read from where nothing else is wanted."""
    found, _ = source.choose(source.of(*UNANSWERED_KINDS), "questions", UNANSWERED_KINDS, split)
    return found, None


def is_unanswered(source: Source) -> bool:
    """Whether there are questions, and answers to none of them."""
    asked = [one for one in source.meant if one.kind in UNANSWERED_KINDS]
    partners = _partners(source)
    return bool(asked) and not any(one.kind is Kind.ALBEF_VQA or partners.get(one.path) for one in asked)


def _of_images(
    source: Source, found: Found, asked: Sequence[_Asked], findings: Findings, limit: int | None, *, answered: bool
) -> ImageTextSet:
    """The set of the questions about the first `limit` images; `answered`: they must have answers."""
    report_repeated(findings, "repeated question ids", f"{found.path}: questions", (one.id for one in asked))
    images = first_images((one.key for one in asked), limit, partial(_image_of, source, found), findings)
    kept = [
        Question(one.id, images[one.key], one.text, one.answers, one.patches, one.answer_type)
        for one in asked
        if one.key in images and _is_whole(found.path, one, findings, answered=answered)
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
    asked, partners = source.of(Kind.VQA_QUESTIONS), _partners(source)
    candidates = [one for one in asked if partners[one.path]] + source.of(Kind.ALBEF_VQA)
    asked = [one for one in asked if one in source.meant]
    if asked and not any(one in source.meant for one in candidates):
        line = f"data {source.where}: no VQA v2 annotations for {asked[0].path.name}; put them beside it"
        raise HarnessError(f"{line}, or see: python -m harness answer --help")
    found, _ = source.choose(candidates, "questions with answers", KINDS, split)
    return found, partners.get(found.path)


def _partners(source: Source) -> dict[Path, Found | None]:
    """VQA v2's files of annotations by those of the questions."""
    asked, answered = source.of(Kind.VQA_QUESTIONS), source.of(Kind.VQA_ANNOTATIONS)
    return {one.path: _partner(one, asked, answered) for one in asked}


def _partner(asked: Found, questions: list[Found], annotations: list[Found]) -> Found | None:
    """The annotations of a file of questions: the only ones, or those of the same subset, or else split."""
    if len(questions) == len(annotations) == 1:
        return annotations[0]
    same = [one for one in annotations if (one.subset or one.splits) == (asked.subset or asked.splits)]
    return same[0] if len(same) == 1 else None


def _vqa_v2(found: Found, partner: Found, findings: Findings) -> list[_Asked]:
    path, there = found.path, partner.path
    annotations = rows_with(there, read_json(there)["annotations"], {"question_id", "answers"})
    report_repeated(
        findings, "repeated annotations", f"{there}: annotations", (row["question_id"] for row in annotations)
    )
    answers = {row["question_id"]: row for row in annotations}
    asked, questions = [], _questions_of(found)
    for one in questions:
        if one.id not in answers:
            line = f"{there}: no annotation for question {one.id} of {path.name}; add it or drop the question"
            findings.fault("questions without annotation", line)
            continue
        about = answers[one.id]
        texts = tuple(str(given["answer"]) for given in rows_with(there, about["answers"], {"answer"}))
        asked.append(replace(one, answers=texts, patches=patches_of(about), answer_type=about.get("answer_type")))
    known = {one.id for one in questions}
    for key in [key for key in answers if key not in known]:
        findings.odd("annotations without a question", f"{there}: annotates question {key}, which {path.name} lacks")
    return asked


def _questions_of(found: Found) -> list[_Asked]:
    """VQA v2's questions, without the answers, which are in a file of their own."""
    rows = rows_with(found.path, read_json(found.path)["questions"], {"question_id", "image_id", "question"})
    return [_Asked(row["image_id"], row["question_id"], words(row["question"]), ()) for row in rows]


def _albef(found: Found, needed: Collection[str] = ()) -> list[_Asked]:
    """ALBEF's list; `answer` is the list of annotators' answers, or for questions of Visual Genome one text.

    Its list of the test split has no answers. `needed`: what every entry must have beside what is read of it.
    """
    path, asked = found.path, list[_Asked]()
    fields = {"image", "question", *needed} | ({"answer"} if found.kind is Kind.ALBEF_VQA else set())
    for number, row in enumerate(rows_with(path, read_json(path), fields)):
        given = row.get("answer", [])
        answers = tuple(str(text) for text in (given if isinstance(given, list) else [given]))
        asked.append(_Asked(str(row["image"]), row.get("question_id", number), words(row["question"]), answers))
    return asked


def _image_of(source: Source, found: Found, key: Any) -> Path:
    """The image that a question's key names: by its number in VQA v2, else by its name."""
    if found.kind is Kind.VQA_QUESTIONS:
        return source.listing.numbered(found.path, key, found.subset)
    return source.listing.named(found.path, key)


def _is_whole(path: Path, question: _Asked, findings: Findings, *, answered: bool) -> bool:
    if not question.text:
        findings.fault("empty questions", f"{path}: question {question.id} is empty or no text; leave it out")
    elif answered and not question.answers:
        findings.fault("questions without answers", f"{path}: question {question.id} has no answers; leave it out")
    else:
        if answered and len(question.answers) < ANSWERS_PER_QUESTION:
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
