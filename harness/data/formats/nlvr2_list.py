"""ALBEF's list of NLVR2, which names both images and leaves the identifiers out."""

from __future__ import annotations

import re
from pathlib import Path

from harness.data.annotations.findings import Findings
from harness.data.annotations.format import FileKind, Found
from harness.data.annotations.rows import rows_with, shown, words
from harness.data.annotations.statements import Stated, StatementFormat
from harness.kit.reading import read_json

_FIELDS = {"images", "sentence", "label"}
_IMAGE = re.compile(r"(?P<set>.+-\d+)-\d+-img[01]")


class NLVR2List(StatementFormat):
    """[{"images": [left, right], "sentence", "label"}]; a group is a sentence within the set its images are of."""

    files = (FileKind("ALBEF statements about image pairs", {"": frozenset(_FIELDS)}),)

    def stated(self, found: Found, splits: tuple[str, ...], findings: Findings) -> list[Stated]:
        read = list[Stated]()
        for number, row in enumerate(rows_with(found.path, read_json(found.path), _FIELDS)):
            images = row["images"]
            if not isinstance(images, list) or len(images) != 2 or not all(isinstance(one, str) for one in images):
                line = f"{found.path}: statement {number} has {shown(images)} for images; expected a list of two names"
                findings.fault("statements without two images", line)
                continue
            text, match = words(row["sentence"]), _IMAGE.fullmatch(Path(images[0]).stem)
            group = f"{match['set']}: {text}" if match else text
            group = str(row.get("group", group))  # The built-in world says which statements are one sentence.
            name = row.get("identifier", number)
            read.append(Stated(name, (images[0], images[1]), row["sentence"], row["label"], group))
        return read
