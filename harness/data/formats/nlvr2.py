"""NLVR2: JSON lines of statements, whose identifiers tell the split, the images and the sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.data.annotations.findings import Findings
from harness.data.annotations.format import FileKind, Found, split_named
from harness.data.annotations.rows import rows_with, shown
from harness.data.annotations.statements import Stated, StatementFormat
from harness.kit.reading import read_json

_FIELDS = {"identifier", "sentence", "label"}
# split-set-pair-sentence; a pair's images are split-set-pair-img0 and -img1.
_IDENTIFIER = re.compile(r"(?P<pair>(?P<set>(?P<split>[^-]+)-\d+)-\d+)-(?P<sentence>\d+)")


class NLVR2(StatementFormat):
    """{"identifier": "dev-850-0-0", "sentence", "label": "True"} a line; the test splits are test1 and test2."""

    files = (FileKind("NLVR2 statements", {"": frozenset(_FIELDS)}),)

    def found_in(self, path: Path, kind: FileKind, content: Any) -> Found:
        rows = content if isinstance(content, list) else [content]
        named = [_split_of(row.get("identifier")) for row in rows if isinstance(row, dict)]
        return Found(path, kind, self, tuple(dict.fromkeys(one for one in named if one)))

    def preferred(self, fitting: Sequence[Found], splits: Sequence[str]) -> Sequence[Found]:
        """test1.json, rather than balanced/balanced_test1.json, which is a part of it."""
        return [one for one in fitting if one.path.stem in splits] or fitting

    def stated(self, found: Found, splits: tuple[str, ...], findings: Findings) -> list[Stated]:
        content, read = read_json(found.path), list[Stated]()
        lines = content if isinstance(content, list) else [content]
        for row in rows_with(found.path, lines, _FIELDS):
            name = str(row["identifier"])
            match = _IDENTIFIER.fullmatch(name)
            if match is None or split_named(match["split"]) is None:
                reason = f"the identifier {shown(name)} is not split-set-pair-sentence, as dev-850-0-0"
                findings.fault("identifiers of another form", f"{found.path}: {reason}; correct it or leave it out")
            elif not splits or match["split"] in splits:
                images = (f"{match['pair']}-img0", f"{match['pair']}-img1")
                group = f"{match['set']}-{match['sentence']}"
                read.append(Stated(name, images, row["sentence"], row["label"], group))
        return read


def _split_of(identifier: Any) -> str | None:
    match = _IDENTIFIER.fullmatch(identifier) if isinstance(identifier, str) else None
    return match["split"] if match is not None and split_named(match["split"]) else None
