"""What a data folder holds, by content: counted, what is missing or odd, and the commands that read it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from harness.data.annotations.captions import CaptionFormat
from harness.data.annotations.findings import Findings
from harness.data.annotations.format import UNREADABLE, Format, Found, Source
from harness.data.annotations.records import ImageTextSet
from harness.data.annotations.report import Examination, Report, counted
from harness.data.annotations.source import OpenedSource
from harness.data.pairs import pretrain_commands
from harness.kit.errors import HarnessError
from harness.kit.progress import Progress

SHOWN_FILES = 8


def lines(folder: Path, full: bool = False) -> list[tuple[str, bool]]:
    """What a folder, or one annotation file, holds; not good: what makes a set unusable, or that there is none.

    `full`: every image is decoded, not a sample of each set.
    """
    source = OpenedSource(folder)
    unreadable = [one for one in source.meant if one.kind is UNREADABLE]
    if unreadable:
        return [(f"unusable: {one.reason}", False) for one in unreadable]
    reports = inspect(source, Examination(full, Progress()))
    found = [line for report in reports for line in report.lines()]
    reported = {path for report in reports for path in report.files}
    others = [] if source.file else [one for one in source.found if one.path not in reported]
    found += [(f"also there: {one.title(source.root)}", True) for one in others[:SHOWN_FILES]]
    if len(others) > SHOWN_FILES:
        found.append((f"also there: {counted(len(others) - SHOWN_FILES, 'more file')}", True))
    if not reports:
        holds = f"{counted(len(source.listing.images), 'image')}, {counted(len(source.listing.others), 'other file')}"
        found.append((f"{folder}: no annotations that a command reads ({holds}); keep files as published", False))
    return found


def inspect(source: OpenedSource, examination: Examination) -> list[Report]:
    """A report of every set that is there; of several files that fill one field, of the one that evaluations use."""
    fields = source.fields()
    formats = dict.fromkeys(one.format for one in source.meant if one.is_set)
    reports = []
    for fills in fields:
        if not all(one.format is not None and one.format.each for one in source.candidates(fills)):
            reports.append(_field_report(source, fills, examination))
    for one in formats:
        if one is not None and (one.each or one.fills not in fields):
            reports += one.describe(source, examination)
    return reports


def _field_report(source: OpenedSource, fills: str, examination: Examination) -> Report:
    """The set that evaluations fill a field from."""
    candidates = source.candidates(fills)
    title = candidates[0].kind.title
    try:
        chosen, one, splits = source.choose(fills, None)
    except HarnessError as error:
        report = Report(title, [other.path for other in candidates])
        return examination.failed(report, str(error))

    def read(findings: Findings) -> tuple[Found, ImageTextSet]:
        return chosen, one.read(source, chosen, splits, findings)

    title = chosen.title(source.root, splits)
    report = examination.report(title, read, one.counts, partial(_commands, source, one))
    report.files = [chosen.path, *one.beside(source, chosen)]
    return report


def _commands(source: Source, one: Format, found: Found) -> list[list[str]]:
    """What reads a set: its format's commands, and of captions the one that pre-trains on them."""
    return one.commands(source, found) + (pretrain_commands(source, found) if isinstance(one, CaptionFormat) else [])
