"""Visual entailment: whether an image entails a sentence, contradicts it or leaves it open, as in SNLI-VE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from harness.data.formats import Hypothesis, ImageTextSet, load_entailment
from harness.errors import HarnessError
from harness.evaluation import VisionEncoder, batches, encode_texts
from harness.metrics.ranking import require_finite
from harness.models.host import ENTAILMENT_LABELS
from harness.task import Outcome, Task, TaskData, TaskOptions

BY_CLASS = tuple(f"entailment_{label}" for label in ENTAILMENT_LABELS)
LEARNT = "ALBEF and METER learn it: python -m harness finetune --task entailment --model albef-tiny --data DIR"


class EntailmentOptions(TaskOptions):
    """blank_images: show the mean colour instead of every image, to see what sentences alone give away."""

    blank_images: bool = False


class Entailment(Task):
    """The class with the highest logit is the host's judgement; equal logits go to the lower class.

    Text-guided methods encode the image anew for each sentence. `entailment_contradiction`, `entailment_neutral` and
    `entailment_entailment` are the accuracy among the sentences of one class; a set without such sentences has no such
    metric.
    """

    NEEDS = frozenset({"entail"})
    READS = "hypotheses"
    Options = EntailmentOptions
    metrics = ("entailment_accuracy", *BY_CLASS)

    def load(self, folder: Any, limit: int | None) -> ImageTextSet:
        return load_entailment(folder, limit)

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, EntailmentOptions)
        host, hypotheses = encoder.host, data.annotations.hypotheses
        if not self.NEEDS & host.model.abilities:
            raise HarnessError(f"entailment: {host.model.cannot('entail')}; {LEARNT}")
        if not hypotheses:
            raise HarnessError("entailment: the data has no sentences to be entailed")
        if options.blank_images:
            encoder.images = torch.zeros_like(encoder.images)
        place = {image: index for index, image in enumerate(data.annotations.images)}
        picks, cut = judged(encoder, hypotheses, [place[one.image] for one in hypotheses])
        names = data.names
        outcomes = accuracies(picks, hypotheses, [names[place[one.image]] for one in hypotheses])
        return Outcome("entailment", outcomes, {"truncated_texts": cut} if cut else {})


def judged(encoder: VisionEncoder, hypotheses: Sequence[Hypothesis], owner: Sequence[int]) -> tuple[list[int], int]:
    """The class that the host gives each sentence about the image it belongs to, and how many sentences were cut."""
    host = encoder.host
    before = host.tokenizer.truncated
    texts = encode_texts(host, [one.text for one in hypotheses], 4 * encoder.batch_size)
    owners = torch.tensor(owner, device=host.device)
    picks: list[int] = []
    with encoder.progress.bar("sentences", len(hypotheses)) as bar:
        for part in batches(len(hypotheses), encoder.batch_size):
            rows = torch.arange(part.start, part.stop, device=host.device)
            asked = texts.rows(rows)
            logits_B3 = host.model.entail(asked, encoder.pair_states(owners[rows], asked))
            require_finite(logits_B3)
            picks += logits_B3.argmax(1).tolist()
            bar.advance(len(rows))
    return picks, host.tokenizer.truncated - before


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
