"""Visual entailment: whether an image entails a sentence, contradicts it or leaves it open, as in SNLI-VE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from harness.data.annotations.records import ENTAILMENT_LABELS
from harness.data.formats import Hypothesis, ImageTextSet, load_entailment
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.sentences import SentenceTask
from harness.evaluate.task import TaskData
from harness.hosts.host import TextBatch
from harness.metrics.quantity import Quantity

BY_CLASS = tuple(f"entailment_{label}" for label in ENTAILMENT_LABELS)


class Entailment(SentenceTask):
    """The class with the highest logit is the host's judgement; equal logits go to the lower class.

    Text-guided methods encode the image anew for each sentence. `entailment_contradiction`, `entailment_neutral` and
    `entailment_entailment` are the accuracy among the sentences of one class; a set without such sentences has no such
    metric.
    """

    TASK = "entailment"
    UNIT = "sentences"
    JUDGED = "sentences to be entailed"
    LEARNT = "ALBEF and METER learn it: python -m harness finetune --task entailment --model albef-tiny --data DIR"
    NEEDS = frozenset({"entail"})
    READS = "hypotheses"
    quantities = (
        Quantity("entailment_accuracy", "entailment accuracy"),
        Quantity("entailment_contradiction", "entailment contradiction", headline=False),
        Quantity("entailment_entailment", "entailment entailment", headline=False),
        Quantity("entailment_neutral", "entailment neutral", headline=False),
    )

    def load(self, folder: Any, limit: int | None, split: str | None = None) -> ImageTextSet:
        return load_entailment(folder, limit, split)

    def shown(self, data: TaskData, sentences: Sequence[Hypothesis]) -> Tensor:
        return data.places(one.image for one in sentences)

    def logits(self, encoder: VisionEncoder, texts: TextBatch, images: Tensor) -> Tensor:
        return encoder.host.model.entail(texts, encoder.pair_tokens(images, texts))

    def verdicts(self, logits: Tensor) -> Tensor:
        return logits.argmax(1)

    def outcomes(
        self, verdicts: Sequence[int], sentences: Sequence[Hypothesis], clusters: Sequence[str]
    ) -> dict[str, tuple[Sequence[str], Sequence[str], np.ndarray]]:
        """Outcomes by metric: of all sentences, and of those of each class that there are."""
        labels = np.array([one.label for one in sentences])
        right = (np.array(verdicts) == labels).astype(np.float64)
        samples, owners = np.array([str(one.id) for one in sentences]), np.array(clusters)
        chosen = {"entailment_accuracy": np.ones(len(labels), dtype=bool)}
        chosen |= {metric: labels == label for label, metric in enumerate(BY_CLASS) if (labels == label).any()}
        return {metric: (samples[rows].tolist(), owners[rows].tolist(), right[rows]) for metric, rows in chosen.items()}
