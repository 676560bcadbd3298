"""Statements about two images, true or false: NLVR2, and ALBEF's list."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from harness.data.formats.files import read_json, rows_with
from harness.data.formats.findings import Findings, report_repeated
from harness.data.formats.kinds import Found, Kind, split_named
from harness.data.formats.records import ImageTextSet, PairStatement
from harness.data.formats.source import Source, words
from harness.kit.errors import HarnessError

KINDS = (Kind.NLVR2, Kind.ALBEF_NLVR)
# split-set-pair-sentence; a pair's images are split-set-pair-img0 and -img1.
_IDENTIFIER = re.compile(r"(?P<pair>(?P<set>.+-\d+)-\d+)-(?P<sentence>\d+)")
_IMAGE = re.compile(r"(?P<set>.+-\d+)-\d+-img[01]")


@dataclass(frozen=True)
class _Said:
    """A statement before its images are found; `label` as the file gives it."""

    id: int | str
    images: tuple[str, str]
    text: str
    label: object
    group: str


def load_nlvr2(folder: Path | str, limit: int | None = None, split: str | None = None) -> ImageTextSet:
    """The statements of a folder, or file; `limit` keeps those about the first images, of pairs that are whole.

    `split` chooses among files, and within one of several splits (None: test, or else val, dev, train). Raises
    HarnessError, one line, for a folder without such files, malformed files, labels other than True and False, empty
    statements, repeated identifiers, and missing images.
    """
    return read_nlvr2(Source(folder), Findings(), limit, split)


def read_nlvr2(source: Source, findings: Findings, limit: int | None = None, split: str | None = None) -> ImageTextSet:
    """`load_nlvr2`, with what is wrong told to `findings`."""
    found, splits = choose_nlvr2(source, split)
    read = _nlvr2(found, splits, findings) if found.kind is Kind.NLVR2 else _albef(found, findings)
    report_repeated(findings, "repeated statement ids", f"{found.path}: statements", (one.id for one in read))
    names = list(dict.fromkeys(chain.from_iterable(one.images for one in read)))[:limit]
    allowed = set(names)
    statements = []
    for one in read:
        if not allowed.issuperset(one.images) or not _is_whole(found.path, one, findings):
            continue
        pair = _located(source, found.path, one, findings)
        if pair is not None:
            statements.append(PairStatement(one.id, pair, one.text, _truth(one.label) is True, one.group))
    if not statements:
        limited = "" if limit is None else f" among the first {limit}"
        findings.fault(
            "sets without statements",
            f"{found.path}: holds no statements about pairs of images that are there{limited}",
        )
    images = dict.fromkeys(chain.from_iterable(one.images for one in statements))
    return ImageTextSet(tuple(images), statements=tuple(statements))


def choose_nlvr2(source: Source, split: str | None) -> tuple[Found, tuple[str, ...]]:
    """The file that statements are read from, and the splits of it."""
    return source.choose(source.of(*KINDS), "statements about image pairs", KINDS, split)


def _nlvr2(found: Found, splits: tuple[str, ...], findings: Findings) -> list[_Said]:
    content, said = read_json(found.path), []
    lines = content if isinstance(content, list) else [content]
    for row in rows_with(found.path, lines, {"identifier", "sentence", "label"}):
        name = str(row["identifier"])
        if splits and split_named(name) not in splits:
            continue
        match = _IDENTIFIER.fullmatch(name)
        if match is None:
            line = f"{found.path}: the identifier {name!r} is not split-set-pair-sentence, as dev-850-0-0"
            findings.fault("identifiers of another form", line)
            continue
        images = (f"{match['pair']}-img0", f"{match['pair']}-img1")
        said.append(_Said(name, images, words(row["sentence"]), row["label"], f"{match['set']}-{match['sentence']}"))
    return said


def _albef(found: Found, findings: Findings) -> list[_Said]:
    """ALBEF's list, which leaves the identifiers out: a group is a sentence within the set its images are of."""
    said = []
    for number, row in enumerate(rows_with(found.path, read_json(found.path), {"images", "sentence", "label"})):
        images = row["images"]
        if not isinstance(images, list) or len(images) != 2:
            line = f"{found.path}: statement {number} has {images!r:.60} for images; expected a list of two"
            findings.fault("statements without two images", line)
            continue
        text, match = words(row["sentence"]), _IMAGE.fullmatch(Path(str(images[0])).stem)
        group = f"{match['set']}: {text}" if match else text
        group = str(row.get("group", group))  # The built-in world says which statements are one sentence.
        said.append(_Said(row.get("identifier", number), (str(images[0]), str(images[1])), text, row["label"], group))
    return said


def _is_whole(path: Path, one: _Said, findings: Findings) -> bool:
    if _truth(one.label) is None:
        line = f"{path}: statement {one.id} has the label {one.label!r}; expected True or False"
        findings.fault("labels outside the known", line)
    elif not one.text:
        findings.fault("empty statements", f"{path}: statement {one.id} is empty or no text; leave it out")
    else:
        return True
    return False


def _truth(label: object) -> bool | None:
    return {"true": True, "false": False}.get(str(label).lower())


def _located(source: Source, path: Path, one: _Said, findings: Findings) -> tuple[Path, Path] | None:
    try:
        first, second = (source.listing.named(path, name) for name in one.images)
    except HarnessError as error:
        findings.fault("statements with an image not found", str(error))
        return None
    return first, second
