"""Fine-tuning on what texts claim of images: the class of each pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.pair_batch import PairBatch
from harness.hosts.parts.tokenizer import Tokenizer
from harness.objectives.downstream.parts.distilled import DistilledObjective
from harness.objectives.parts.objective import Pairs, soft_contrast


@dataclass(frozen=True)
class Labelled(Pairs):
    """Images, texts, and the class (B,) of each pair."""

    labels: Tensor


class ClassifiedObjective(DistilledObjective):
    """Base class: cross-entropy of classes, whose logits a task asks the host for."""

    NAME = "class"

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Labelled:
        ids, mask = tokenizer(batch.captions)
        labels = torch.tensor([target for target in batch.targets if isinstance(target, int)])
        return Labelled(batch.pixels, ids, mask, batch.sample_ids, labels)

    def loss(self, logits: Tensor, pairs: Labelled, soft: Tensor | None, alpha: float) -> Tensor:
        hard = F.cross_entropy(logits, pairs.labels)
        return hard if soft is None else (1 - alpha) * hard + alpha * soft_contrast(logits, soft.softmax(-1))
