"""NLVR2: whether a statement about two images is true, and whether it is judged right of all its pairs of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from harness.data.formats import ImageTextSet, PairStatement, load_nlvr2
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.sentences import SentenceTask
from harness.evaluate.task import TaskData
from harness.hosts.host import TextBatch
from harness.metrics.accuracy import consistency
from harness.metrics.quantity import Quantity


class Nlvr2(SentenceTask):
    """`nlvr2_accuracy`: the share of statements judged right; a statement is judged true when its logit is the higher.

    `nlvr2_consistency`: the share of groups, statements of the same words about other pairs of the same set of images,
    all of which are judged right. Text-guided methods encode both images anew for each statement. Statements of a
    group are resampled together.
    """

    TASK = "nlvr2"
    UNIT = "statements"
    JUDGED = "statements about pairs of images"
    LEARNT = "ALBEF, BLIP and METER learn it: python -m harness finetune --task nlvr2 --model albef-tiny --data DIR"
    NEEDS = frozenset({"compare"})
    READS = "statements"
    quantities = (
        Quantity("nlvr2_accuracy", "NLVR2 accuracy"),
        Quantity("nlvr2_consistency", "NLVR2 consistency", headline=False),
    )

    def load(self, folder: Any, limit: int | None, split: str | None = None) -> ImageTextSet:
        return load_nlvr2(folder, limit, split)

    def shown(self, data: TaskData, sentences: Sequence[PairStatement]) -> Tensor:
        return data.places(image for one in sentences for image in one.images).view(-1, 2)

    def logits(self, encoder: VisionEncoder, texts: TextBatch, images: Tensor) -> Tensor:
        first, second = (encoder.pair_tokens(index, texts) for index in images.T)
        return encoder.host.model.compare(texts, first, second)

    def verdicts(self, logits: Tensor) -> Tensor:
        return logits[:, 1] > logits[:, 0]

    def outcomes(
        self, verdicts: Sequence[bool], sentences: Sequence[PairStatement], clusters: Sequence[str]
    ) -> dict[str, tuple[Sequence[str], Sequence[str], np.ndarray]]:
        """Outcomes by metric: one per statement, and one per group, which is the cluster of its statements."""
        groups = [one.group for one in sentences]
        right = np.array([held == one.label for held, one in zip(verdicts, sentences, strict=True)], dtype=np.float64)
        names, whole = consistency(right, groups)
        return {
            "nlvr2_accuracy": ([str(one.id) for one in sentences], groups, right),
            "nlvr2_consistency": (names, names, whole),
        }
