"""ALBEF's list of the questions of VQA v2's test split, whose answers are not published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.data.annotations.findings import Findings
from harness.data.annotations.format import FileKind, Found, Source
from harness.data.annotations.questions import Asked, QuestionFormat, listed_questions


class UnansweredVQAList(QuestionFormat):
    """[{"image", "question", "question_id"}], for the server of VQA v2."""

    files = (FileKind("ALBEF questions without answers", {"": frozenset({"image", "question"})}),)

    def lacks(self, source: Source, found: Found) -> str:
        return f"no questions with answers in {found.path.name}; see: python -m harness answer --help"

    def asked(self, source: Source, found: Found, findings: Findings, *, answered: bool) -> list[Asked]:
        return listed_questions(found.path, {"question_id"}, set())

    def image_of(self, source: Source, found: Found, key: Any) -> Path:
        return source.listing.named(found.path, key)
