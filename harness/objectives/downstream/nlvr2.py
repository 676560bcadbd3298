"""Fine-tuning on NLVR2: whether a statement about two images is true."""

from __future__ import annotations

from torch import Tensor

from harness.hosts.host import HostModel, TextBatch
from harness.objectives.downstream.parts.classified import ClassifiedObjective, Labelled
from harness.objectives.downstream.parts.distilled import Encode


class Nlvr2Objective(ClassifiedObjective):
    """Statements, true (1) or not (0), about two images: pixels (B, 2, 3, H, W), each reduced for the statement."""

    NEEDS = frozenset({"compare"})

    def logits(self, host: HostModel, texts: TextBatch, encode: Encode, pairs: Labelled) -> Tensor:
        return host.compare(texts, encode(pairs.pixels[:, 0]), encode(pairs.pixels[:, 1]))
