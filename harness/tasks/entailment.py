"""Visual entailment: whether an image entails a sentence, contradicts it or leaves it open, as in SNLI-VE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from harness.data.annotations.records import ENTAILMENT_LABELS
from harness.data.formats import Hypothesis, ImageTextSet, load_entailment
from harness.evaluate.encoder import Texts, VisionEncoder
from harness.evaluate.task import BlindOptions, Outcome, Task, TaskData, TaskOptions
from harness.kit.errors import HarnessError
from harness.metrics.quantity import Quantity
from harness.metrics.ranking import require_finite

BY_CLASS = tuple(f"entailment_{label}" for label in ENTAILMENT_LABELS)
LEARNT = "ALBEF and METER learn it: python -m harness finetune --task entailment --model albef-tiny --data DIR"


class Entailment(Task):
    """The class with the highest logit is the host's judgement; equal logits go to the lower class.

    Text-guided methods encode the image anew for each sentence. `entailment_contradiction`, `entailment_neutral` and
    `entailment_entailment` are the accuracy among the sentences of one class; a set without such sentences has no such
    metric.
    """

    NEEDS = frozenset({"entail"})
    READS = "hypotheses"
    Options = BlindOptions
    quantities = (
        Quantity("entailment_accuracy", "entailment accuracy"),
        Quantity("entailment_contradiction", "entailment contradiction", headline=False),
        Quantity("entailment_entailment", "entailment entailment", headline=False),
        Quantity("entailment_neutral", "entailment neutral", headline=False),
    )

    def load(self, folder: Any, limit: int | None, split: str | None = None) -> ImageTextSet:
        return load_entailment(folder, limit, split)

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, BlindOptions)
        host, hypotheses = encoder.host, data.annotations.hypotheses
        if not self.NEEDS & host.model.abilities:
            raise HarnessError(f"entailment: {host.model.cannot('entail')}; {LEARNT}")
        if not hypotheses:
            raise HarnessError("entailment: the data has no sentences to be entailed")
        if options.blank_images:
            encoder.show_blank()
        texts = Texts(host, [one.text for one in hypotheses])
        owners = data.places(one.image for one in hypotheses)
        picks = judged(encoder, texts, owners).tolist()
        names = data.names
        outcomes = accuracies(picks, hypotheses, [names[owner] for owner in owners.tolist()])
        diagnostics = {"truncated_texts": texts.cut} if texts.cut else {}
        return Outcome("entailment", outcomes, encoder.throughput("sentences", len(hypotheses)), diagnostics)


def judged(encoder: VisionEncoder, texts: Texts, owners: Tensor) -> Tensor:
    """The class (S,) that the host gives each sentence about the image it belongs to."""

    def classes(rows: Tensor) -> Tensor:
        asked = texts.rows(rows)
        logits_B3 = encoder.host.model.entail(asked, encoder.pair_tokens(owners[rows.cpu()], asked))
        require_finite(logits_B3)
        return logits_B3.argmax(1)

    return encoder.map_shared(len(owners), classes, "sentences", images=owners)


def accuracies(
    picks: Sequence[int], hypotheses: Sequence[Hypothesis], clusters: Sequence[str]
) -> dict[str, tuple[Sequence[str], Sequence[str], np.ndarray]]:
    """Outcomes by metric: of all sentences, and of those of each class that there are."""
    labels = np.array([one.label for one in hypotheses])
    right = (np.array(picks) == labels).astype(np.float64)
    samples, owners = np.array([str(one.id) for one in hypotheses]), np.array(clusters)
    chosen = {"entailment_accuracy": np.ones(len(labels), dtype=bool)}
    chosen |= {metric: labels == label for label, metric in enumerate(BY_CLASS) if (labels == label).any()}
    return {metric: (samples[rows].tolist(), owners[rows].tolist(), right[rows]) for metric, rows in chosen.items()}
