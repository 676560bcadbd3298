"""BLIP on retrieval: contrast with all captions of an image, and matching with hard negatives (blip_retrieval.py)."""

from __future__ import annotations

from harness.objectives.blip import BlipObjective
from harness.objectives.downstream.parts.many_captions import ManyCaptions
from harness.objectives.parts.objective import Losses, Moment, Pairs


class BlipRetrieval(ManyCaptions, BlipObjective):
    """BLIP's contrast and matching; its released program draws negatives for retrieval without a floor."""

    NEGATIVE_FLOOR = 0.0

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        found = self.align(pairs, moment)
        return {"contrast": found.contrast, "matching": self.matching(found, pairs, moment)}
