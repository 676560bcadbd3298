"""Fine-tuning on visual entailment: whether a hypothesis follows from an image."""

from __future__ import annotations

from torch import Tensor

from harness.hosts.host import HostModel, TextBatch
from harness.objectives.downstream.parts.classified import ClassifiedObjective, Labelled
from harness.objectives.downstream.parts.distilled import Encode


class EntailmentObjective(ClassifiedObjective):
    """Hypotheses about one image, in the order of ENTAILMENT_LABELS."""

    NEEDS = frozenset({"entail"})

    def logits(self, host: HostModel, texts: TextBatch, encode: Encode, pairs: Labelled) -> Tensor:
        return host.entail(texts, encode(pairs.pixels))
