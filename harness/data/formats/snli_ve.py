"""SNLI-VE: JSON lines of sentences about images of Flickr30k."""

from __future__ import annotations

from harness.data.annotations.format import FileKind, Found
from harness.data.annotations.hypotheses import HypothesisFormat
from harness.data.annotations.rows import Json, rows_with
from harness.kit.reading import read_json

_FIELDS = {"Flickr30K_ID", "sentence2", "gold_label"}


class SnliVE(HypothesisFormat):
    """{"Flickr30K_ID", "sentence2", "gold_label", "pairID"} a line."""

    files = (FileKind("SNLI-VE sentences", {"": frozenset(_FIELDS)}),)

    def rows(self, found: Found) -> list[Json]:
        content = read_json(found.path)
        lines = content if isinstance(content, list) else [content]
        return [
            row
            | {"id": row.get("pairID", number), "image": f"{row['Flickr30K_ID']}.jpg"}
            | {"sentence": row["sentence2"], "label": row["gold_label"]}
            for number, row in enumerate(rows_with(found.path, lines, _FIELDS))
        ]
