"""Fine-tuning on what texts claim of images: visual entailment, and NLVR2's statements about two images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.pair_loader import PairBatch
from harness.hosts.host import HostModel, TextBatch
from harness.hosts.parts.tokenizer import Tokenizer
from harness.objectives.downstream.distilled import DistilledObjective, Encode
from harness.objectives.objective import Pairs, soft_contrast


@dataclass(frozen=True)
class Labelled(Pairs):
    """Images, texts, and the class (B,) of each pair."""

    labels: Tensor


class _Classified(DistilledObjective):
    """Cross-entropy of classes."""

    NAME = "class"

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Labelled:
        ids, mask = tokenizer(batch.captions)
        labels = torch.tensor([target for target in batch.targets if isinstance(target, int)])
        return Labelled(batch.pixels, ids, mask, batch.sample_ids, labels)

    def loss(self, logits: Tensor, pairs: Labelled, soft: Tensor | None, alpha: float) -> Tensor:
        hard = F.cross_entropy(logits, pairs.labels)
        return hard if soft is None else (1 - alpha) * hard + alpha * soft_contrast(logits, soft.softmax(-1))


class EntailObjective(_Classified):
    """Hypotheses about one image, in the order of ENTAILMENT_LABELS."""

    def logits(self, host: HostModel, texts: TextBatch, encode: Encode, pairs: Labelled) -> Tensor:
        return host.entail(texts, encode(pairs.pixels))


class CompareObjective(_Classified):
    """Statements, true (1) or not (0), about two images: pixels (B, 2, 3, H, W), each reduced for the statement."""

    def logits(self, host: HostModel, texts: TextBatch, encode: Encode, pairs: Labelled) -> Tensor:
        return host.compare(texts, encode(pairs.pixels[:, 0]), encode(pairs.pixels[:, 1]))
