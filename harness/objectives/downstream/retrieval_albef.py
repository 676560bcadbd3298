"""ALBEF on retrieval: contrast with all captions of an image, and matching with hard negatives (model_retrieval.py)."""

from __future__ import annotations

from harness.objectives.albef import AlbefObjective
from harness.objectives.downstream.parts.many_captions import ManyCaptions
from harness.objectives.parts.objective import Losses, Moment, Pairs


class AlbefRetrieval(ManyCaptions, AlbefObjective):
    """ALBEF's contrast and matching."""

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        found = self.align(pairs, moment)
        return {"contrast": found.contrast, "matching": self.matching(found, pairs, moment)}
