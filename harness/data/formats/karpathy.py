"""Karpathy's splits of COCO and Flickr30k: captions and splits in one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.data.annotations.captions import CaptionFormat, Described, Said
from harness.data.annotations.findings import Findings
from harness.data.annotations.format import FileKind, Found, Source, split_named
from harness.data.annotations.rows import rows_with, shown
from harness.kit.reading import read_json


class Karpathy(CaptionFormat):
    """{"images": [{"filepath", "filename", "split", "sentences": [{"raw", "sentid"}]}]}; train goes with restval."""

    files = (FileKind("Karpathy's captions", {"images": frozenset({"filename", "sentences"})}),)

    def found_in(self, path: Path, kind: FileKind, content: Any) -> Found:
        named = [row.get("split") for row in content["images"] if isinstance(row, dict)]
        return Found(path, kind, self, tuple(dict.fromkeys(one for one in named if isinstance(one, str) and one)))

    def described(self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings) -> Described:
        path = found.path
        rows = rows_with(path, read_json(path)["images"], {"filename", "sentences"} | ({"split"} if splits else set()))
        names, said = dict[int, str](), list[Said]()
        for key, row in enumerate(rows):
            if splits and row["split"] not in splits:
                if not isinstance(row["split"], str) or split_named(row["split"]) is None:
                    line = f"{path}: image {key} is of the split {shown(row['split'])}"
                    findings.fault("splits that cannot be understood", f"{line}; correct it, or name it with --split")
                continue
            names[key] = str(Path(str(row.get("filepath", "")), str(row["filename"])))
            for number, sentence in enumerate(rows_with(path, row["sentences"], {"raw"}, f"image {key}, sentence")):
                name = sentence.get("sentid", f"{row['filename']}#{number}")
                said.append(Said(key, name, sentence["raw"], key))
        return Described(list(names), said, names.__getitem__, lambda files, key: files.named(path, names[key]))
