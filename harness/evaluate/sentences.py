"""What the tasks share in which a host judges sentences about images, each by one row of logits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from harness.evaluate.encoder import Texts, VisionEncoder
from harness.evaluate.task import BlindOptions, Outcome, Task, TaskData, TaskOptions
from harness.hosts.host import TextBatch
from harness.kit.errors import HarnessError
from harness.metrics.ranking import require_finite


class SentenceTask(Task):
    """Base class; the sentences are those of the field that the task `READS`, each with a `text`.

    `TASK`: its name; `UNIT`: what progress and speed count; `JUDGED`: the sentences, in the error of a set without any;
    `LEARNT`: which hosts learn the task and by which command. Shapes: S sentences, B of a batch, C classes.
    """

    Options = BlindOptions
    TASK: ClassVar[str]
    UNIT: ClassVar[str]
    JUDGED: ClassVar[str]
    LEARNT: ClassVar[str]

    @abstractmethod
    def shown(self, data: TaskData, sentences: Sequence[Any]) -> Tensor:
        """Which images each sentence is about, an index (S,) or (S, 2)."""

    @abstractmethod
    def logits(self, encoder: VisionEncoder, texts: TextBatch, images: Tensor) -> Tensor:
        """Logits (B, C) of sentences about their images, given by their index (B,) or (B, 2)."""

    @abstractmethod
    def verdicts(self, logits: Tensor) -> Tensor:
        """What the host takes each sentence for, (B,), by its logits (B, C)."""

    @abstractmethod
    def outcomes(
        self, verdicts: Sequence[Any], sentences: Sequence[Any], clusters: Sequence[str]
    ) -> Mapping[str, tuple[Sequence[str], Sequence[str], np.ndarray]]:
        """Outcomes by metric, as `Outcome` takes them; `clusters`: the name of each sentence's first image."""

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, BlindOptions)
        host, sentences = encoder.host, getattr(data.annotations, self.READS)
        lacking = sorted(self.NEEDS - host.model.abilities)
        if lacking:
            raise HarnessError(f"{self.TASK}: {host.model.cannot(lacking[0])}; {self.LEARNT}")
        if not sentences:
            raise HarnessError(f"{self.TASK}: the data has no {self.JUDGED}")
        if options.blank_images:
            encoder.show_blank()
        texts, images = Texts(host, [one.text for one in sentences]), self.shown(data, sentences)

        def judged(rows: Tensor) -> Tensor:
            logits_BC = self.logits(encoder, texts.rows(rows), images[rows.cpu()])
            require_finite(logits_BC)
            return self.verdicts(logits_BC)

        verdicts = encoder.map_shared(len(sentences), judged, self.UNIT, images=images).tolist()
        names, first = data.names, images.view(len(images), -1)[:, 0].tolist()
        outcomes = self.outcomes(verdicts, sentences, [names[image] for image in first])
        diagnostics = {"truncated_texts": texts.cut} if texts.cut else {}
        return Outcome(self.TASK, outcomes, encoder.throughput(self.UNIT, len(sentences)), diagnostics)
