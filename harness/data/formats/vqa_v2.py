"""VQA v2: questions in one JSON file, their annotators' answers in another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.data.annotations.answer_list import ANSWER_LIST
from harness.data.annotations.findings import Findings, report_repeated
from harness.data.annotations.format import FileKind, Found, Source, split_named
from harness.data.annotations.questions import Asked, QuestionFormat
from harness.data.annotations.rows import lacking_key, patches_of, rows_with
from harness.kit.errors import HarnessError
from harness.kit.reading import read_json

QUESTIONS = FileKind("VQA v2 questions", {"questions": frozenset({"question_id", "question"})})
ANNOTATIONS = FileKind("VQA v2 annotations", {"annotations": frozenset({"question_id", "answers"})})


class VQAv2(QuestionFormat):
    """{"questions": [{"question_id", "image_id", "question"}]}, {"annotations": [{"question_id", "answers"}]}.

    Samples and mirrors leave image_id out of the annotations, so the question carries the image.
    """

    files = (QUESTIONS, ANNOTATIONS, ANSWER_LIST)

    def found_in(self, path: Path, kind: FileKind, content: Any) -> Found:
        """data_subtype tells the split, or else the file's name; it stands in the names of the images, too."""
        subset = str(content.get("data_subtype", "")) if isinstance(content, dict) else ""
        split = split_named(subset) or split_named(path.stem)
        return Found(path, kind, self, (split,) if split and kind is not ANSWER_LIST else (), subset)

    def lacks(self, source: Source, found: Found) -> str:
        if partner_of(source, found) is not None:
            return ""
        line = f"no VQA v2 annotations for {found.path.name}; put them beside it"
        return f"{line}, or see: python -m harness answer --help"

    def beside(self, source: Source, found: Found) -> list[Path]:
        partner = partner_of(source, found)
        return super().beside(source, found) + ([] if partner is None else [partner.path])

    def asked(self, source: Source, found: Found, findings: Findings, *, answered: bool) -> list[Asked]:
        rows = rows_with(found.path, read_json(found.path)["questions"], {"question_id", "image_id", "question"})
        asked = [Asked(row["image_id"], row["question_id"], row["question"], ()) for row in rows]
        if not answered:
            return asked
        partner = partner_of(source, found)
        if partner is None:
            raise HarnessError(f"data {source.where}: {self.lacks(source, found)}")
        return _answered(found.path, asked, partner.path, findings)

    def image_of(self, source: Source, found: Found, key: Any) -> Path:
        return source.listing.numbered(found.path, key, found.subset)


def partner_of(source: Source, asked: Found) -> Found | None:
    """The annotations of a file of questions: the only ones, or those of the same subset, or else split."""
    questions, annotations = source.of(QUESTIONS), source.of(ANNOTATIONS)
    if len(questions) == len(annotations) == 1:
        return annotations[0]
    same = [one for one in annotations if (one.subset or one.splits) == (asked.subset or asked.splits)]
    return same[0] if len(same) == 1 else None


def _answered(path: Path, asked: list[Asked], there: Path, findings: Findings) -> list[Asked]:
    """Questions with the answers that the file `there` has for them."""
    annotations = rows_with(there, read_json(there)["annotations"], {"question_id", "answers"})
    ids = (row["question_id"] for row in annotations)
    report_repeated(findings, "repeated annotations", f"{there}: annotations", ids)
    answers, found = {row["question_id"]: row for row in annotations}, list[Asked]()
    for one in asked:
        if one.id not in answers:
            line = f"{there}: no annotation for question {one.id} of {path.name}"
            reason = lacking_key(one.id, answers, "question", there.name)
            findings.fault("questions without annotation", f"{line}: it {reason}")
            continue
        about = answers[one.id]
        given = rows_with(there, about["answers"], {"answer"}, f"question {one.id}, answer")
        texts = tuple(row["answer"] for row in given)
        kind = about.get("answer_type")
        patches = patches_of(there, about)
        found.append(replace(one, answers=texts, patches=patches, answer_type=kind if isinstance(kind, str) else None))
    known = {one.id for one in asked}
    for key in [key for key in answers if key not in known]:
        findings.odd("annotations without a question", f"{there}: annotates question {key}, which {path.name} lacks")
    return found
