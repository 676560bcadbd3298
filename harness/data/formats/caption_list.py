"""ALBEF's and BLIP's lists of captions for retrieval and captioning."""

from __future__ import annotations

from harness.data.annotations.captions import CaptionFormat, Described, is_of_a_set, listed
from harness.data.annotations.findings import Findings
from harness.data.annotations.format import FileKind, Found, Source


class CaptionList(CaptionFormat):
    """[{"image", "caption": text or list, "image_id"}]; an entry is one pair of pre-training."""

    files = (FileKind("ALBEF/BLIP captions", {"": frozenset({"image", "caption"})}, also=is_of_a_set),)

    def described(self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings) -> Described:
        return listed(found.path)
