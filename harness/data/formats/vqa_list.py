"""ALBEF's lists of questions with answers: VQA v2's, and Visual Genome's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.data.annotations.findings import Findings
from harness.data.annotations.format import FileKind, Found, Source
from harness.data.annotations.questions import Asked, QuestionFormat, listed_questions


class VQAList(QuestionFormat):
    """[{"image", "question", "question_id", "answer": list, or for Visual Genome one text}]."""

    files = (FileKind("ALBEF questions", {"": frozenset({"image", "question", "answer"})}),)

    def asked(self, source: Source, found: Found, findings: Findings, *, answered: bool) -> list[Asked]:
        return listed_questions(found.path, set() if answered else {"question_id"}, {"answer"})

    def image_of(self, source: Source, found: Found, key: Any) -> Path:
        return source.listing.named(found.path, key)
