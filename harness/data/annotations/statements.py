"""Sets of statements about two images, true or false."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from harness.data.annotations.findings import Findings, report_repeated
from harness.data.annotations.format import Format, Found, Source
from harness.data.annotations.records import ImageTextSet, PairStatement
from harness.data.annotations.report import counted
from harness.data.annotations.rows import shown, text_fault
from harness.kit.errors import HarnessError


@dataclass(frozen=True)
class Stated:
    """A statement before its images are found; `label` and `text` as the file gives them."""

    id: int | str
    images: tuple[str, str]
    text: Any
    label: object
    group: str


class StatementFormat(Format):
    """A format of statements about pairs of images."""

    fills: ClassVar[str] = "statements"
    noun: ClassVar[str] = "statements about image pairs"

    @abstractmethod
    def stated(self, found: Found, splits: tuple[str, ...], findings: Findings) -> list[Stated]:
        """The statements of a file, or of some splits of it."""

    def read(
        self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings, limit: int | None = None
    ) -> ImageTextSet:
        """`limit` keeps the statements about the first images, of pairs that are whole."""
        read = self.stated(found, splits, findings)
        report_repeated(findings, "repeated statement ids", f"{found.path}: statements", (one.id for one in read))
        allowed = set(list(dict.fromkeys(chain.from_iterable(one.images for one in read)))[:limit])
        statements = []
        for one in read:
            if not allowed.issuperset(one.images) or not _is_whole(found.path, one, findings):
                continue
            pair = _located(source, found.path, one, findings)
            if pair is not None:
                truth = _truth(one.label) is True
                statements.append(PairStatement(one.id, pair, one.text.strip(), truth, one.group))
        if not statements:
            limited = "" if limit is None else f" among the first {limit}"
            line = f"{found.path}: holds no statements about pairs of images that are there{limited}"
            findings.fault("sets without statements", line)
        images = dict.fromkeys(chain.from_iterable(one.images for one in statements))
        return ImageTextSet(tuple(images), statements=tuple(statements))

    def counts(self, data: ImageTextSet) -> list[str]:
        true = sum(one.label for one in data.statements)
        pairs, groups = len({one.images for one in data.statements}), len({one.group for one in data.statements})
        labels = f"{true:,} true, {len(data.statements) - true:,} false"
        stated = f"{counted(len(data.statements), 'statement')} of {counted(groups, 'sentence')}: {labels}"
        return [f"{counted(pairs, 'pair')}, {stated}"]


def _is_whole(path: Path, one: Stated, findings: Findings) -> bool:
    fault = text_fault(one.text)
    if _truth(one.label) is None:
        line = f"{path}: statement {one.id} has the label {shown(one.label)}; expected True or False"
        findings.fault("labels outside the known", line)
    elif fault is not None:
        findings.fault(f"{fault[0]} statements", f"{path}: statement {one.id} {fault[1]}; leave it out")
    else:
        return True
    return False


def _truth(label: object) -> bool | None:
    return {"true": True, "false": False}.get(str(label).lower()) if isinstance(label, (str, bool)) else None


def _located(source: Source, path: Path, one: Stated, findings: Findings) -> tuple[Path, Path] | None:
    try:
        first, second = (source.listing.named(path, name) for name in one.images)
    except HarnessError as error:
        findings.fault("statements with an image not found", str(error))
        return None
    return first, second
