"""ALBEF's list of SNLI-VE, which names images without their ending."""

from __future__ import annotations

from harness.data.annotations.format import FileKind, Found
from harness.data.annotations.hypotheses import HypothesisFormat
from harness.data.annotations.rows import Json, rows_with
from harness.kit.reading import read_json

_FIELDS = {"image", "sentence", "label"}


class EntailmentList(HypothesisFormat):
    """[{"image", "sentence", "label"}]."""

    files = (FileKind("ALBEF entailment sentences", {"": frozenset(_FIELDS)}),)

    def rows(self, found: Found) -> list[Json]:
        rows = rows_with(found.path, read_json(found.path), _FIELDS)
        return [row | {"id": number} for number, row in enumerate(rows)]
