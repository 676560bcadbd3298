"""What a data folder holds, by content: counted, what is missing or odd, and the commands that read it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from harness.data.annotations.captions import CaptionFormat
from harness.data.annotations.findings import Finding, Findings
from harness.data.annotations.format import UNREADABLE, Format, Found, Source
from harness.data.annotations.records import ImageTextSet
from harness.data.annotations.report import Examination, Report, counted
from harness.data.annotations.source import OpenedSource
from harness.data.images import read_image
from harness.data.pairs import pretrain_commands
from harness.data.pixel_kind import KIND_FILE, PixelKind, kind_beside
from harness.data.scene_layout import IMAGE_SIZE
from harness.kit.errors import HarnessError
from harness.kit.files import ASSETS
from harness.kit.progress import Progress

SHOWN_FILES = 8
# Commands that measure a host that has been trained already.
MEASURING = {"run", "answer"}
# A share of unlike pictures above which a host is not for a set, as `run` warns (harness.run.unknown needs torch).
MANY_UNKNOWN = 0.1


def lines(folder: Path, full: bool = False) -> list[tuple[str, bool]]:
    """What a folder, or one annotation file, holds; not good: what makes a set unusable, or that there is none.

    `full`: every image is decoded, not a sample of each set.
    """
    source = OpenedSource(folder)
    unreadable = [one for one in source.meant if one.kind is UNREADABLE]
    if unreadable:
        return [(f"unusable: {one.reason}", False) for one in unreadable]
    reports = inspect(source, Examination(full, Progress()))
    kinds = shipped_kinds()
    for report in reports:
        report.findings += strange_pictures(report, kinds)
    found = [line for report in reports for line in report.lines()]
    reported = {path for report in reports for path in report.files}
    others = [] if source.file else [one for one in source.found if one.path not in reported]
    found += [(f"also there: {one.title(source.root)}", True) for one in others[:SHOWN_FILES]]
    if len(others) > SHOWN_FILES:
        found.append((f"also there: {counted(len(others) - SHOWN_FILES, 'more file')}", True))
    if source.file is None and (unread := source.listing.unreadable):
        what = counted(len(unread), "pipe, device or link to nothing", "pipes, devices or links to nothing")
        found.append((f"left out: {what} (first: {unread[0].relative_to(source.root)})", True))
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


def shipped_kinds() -> dict[str, PixelKind]:
    """What pictures the hosts that ship with weights were trained on, by the host's name."""
    found = {path.parent.name: kind_beside(path) for path in sorted(ASSETS.glob(f"*/{KIND_FILE}"))}
    return {name: kind for name, kind in found.items() if kind is not None}


def strange_pictures(report: Report, kinds: dict[str, PixelKind]) -> list[Finding]:
    """That no host that ships knows pictures such as those of a usable set, where commands would measure one."""
    if not report.usable or not report.sample or not any(command[0] in MEASURING for command in report.commands):
        return []
    pictures = np.stack([read_image(path, IMAGE_SIZE) for path in report.sample]).transpose(0, 3, 1, 2) / 255
    if any(kind.unlike(pictures) <= MANY_UNKNOWN for kind in kinds.values()):
        return []
    names, data = " and ".join(kinds), " and ".join(sorted({kind.data for kind in kinds.values()}))
    line = f"pictures unlike those of {data}, which {names} know: add --model and --weights of a host that knows such"
    return [Finding("", line, fault=False)]


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
