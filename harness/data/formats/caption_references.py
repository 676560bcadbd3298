"""BLIP's reference captions of COCO, whose images are known by their number."""

from __future__ import annotations

from harness.data.annotations.captions import CaptionFormat, Described, Said
from harness.data.annotations.findings import Findings
from harness.data.annotations.format import FileKind, Found, Source
from harness.data.annotations.rows import rows_with
from harness.kit.reading import read_json


class CaptionReferences(CaptionFormat):
    """{"annotations": [{"image_id", "caption", "id"}], "images": [{"id"}]}, made for scoring captions."""

    files = (FileKind("BLIP's reference captions", {"annotations": frozenset({"image_id", "caption"})}),)
    second = True

    def described(self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings) -> Described:
        path = found.path
        rows = rows_with(path, read_json(path)["annotations"], {"image_id", "caption"})
        places = {key: place for place, key in enumerate(dict.fromkeys(row["image_id"] for row in rows))}
        said = [
            Said(row["image_id"], row.get("id", number), row["caption"], places[row["image_id"]])
            for number, row in enumerate(rows)
        ]
        return Described([one.key for one in said], said, str, lambda files, key: files.numbered(path, key, None))
