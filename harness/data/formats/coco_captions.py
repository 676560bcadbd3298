"""COCO captions: images and annotations in one JSON file."""

from __future__ import annotations

from harness.data.annotations.captions import CaptionFormat, Described, Said
from harness.data.annotations.findings import Findings, report_repeated
from harness.data.annotations.format import FileKind, Found, Source
from harness.data.annotations.rows import lacking_key, patches_of, rows_with
from harness.kit.reading import read_json


class CocoCaptions(CaptionFormat):
    """{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}; an image is one pair."""

    files = (
        FileKind(
            "COCO captions",
            {"annotations": frozenset({"image_id", "caption"}), "images": frozenset({"id", "file_name"})},
        ),
    )

    def described(self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings) -> Described:
        path, content = found.path, read_json(found.path)
        listed = rows_with(path, content["images"], {"id", "file_name"})
        report_repeated(findings, "repeated image ids", f"{path}: images", (row["id"] for row in listed))
        names = {row["id"]: str(row["file_name"]) for row in listed}
        said, places = [], {key: place for place, key in enumerate(names)}
        for number, row in enumerate(rows_with(path, content["annotations"], {"image_id", "caption"})):
            key, name = row["image_id"], row.get("id", number)
            if key in names:
                said.append(Said(key, name, row["caption"], places[key], patches_of(path, row)))
            else:
                line = f"{path}: caption {name} {lacking_key(key, names, 'image', 'the list of images')}"
                findings.fault("captions of unknown images", line)
        return Described(list(names), said, names.__getitem__, lambda files, key: files.named(path, names[key]))
