"""NLVR2: whether a statement about two images is true, and whether it is judged right of all its pairs of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from harness.data.formats import ImageTextSet, PairStatement, load_nlvr2
from harness.evaluate.encoder import Texts, VisionEncoder
from harness.evaluate.task import BlindOptions, Outcome, Task, TaskData, TaskOptions
from harness.kit.errors import HarnessError
from harness.metrics.accuracy import consistency
from harness.metrics.quantity import Quantity
from harness.metrics.ranking import require_finite

LEARNT = "ALBEF, BLIP and METER learn it: python -m harness finetune --task nlvr2 --model albef-tiny --data DIR"


class Nlvr2(Task):
    """`nlvr2_accuracy`: the share of statements judged right; a statement is judged true when its logit is the higher.

    `nlvr2_consistency`: the share of groups, statements of the same words about other pairs of the same set of images,
    all of which are judged right. Text-guided methods encode both images anew for each statement. Statements of a
    group are resampled together.
    """

    NEEDS = frozenset({"compare"})
    READS = "statements"
    Options = BlindOptions
    quantities = (
        Quantity("nlvr2_accuracy", "NLVR2 accuracy"),
        Quantity("nlvr2_consistency", "NLVR2 consistency", headline=False),
    )

    def load(self, folder: Any, limit: int | None, split: str | None = None) -> ImageTextSet:
        return load_nlvr2(folder, limit, split)

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, BlindOptions)
        host, statements = encoder.host, data.annotations.statements
        if not self.NEEDS & host.model.abilities:
            raise HarnessError(f"nlvr2: {host.model.cannot('compare')}; {LEARNT}")
        if not statements:
            raise HarnessError("nlvr2: the data has no statements about pairs of images")
        if options.blank_images:
            encoder.show_blank()
        texts = Texts(host, [one.text for one in statements])
        pairs = data.places(image for one in statements for image in one.images).view(-1, 2)
        outcomes = accuracies(judged(encoder, texts, pairs).tolist(), statements)
        diagnostics = {"truncated_texts": texts.cut} if texts.cut else {}
        return Outcome("nlvr2", outcomes, encoder.throughput("statements", len(statements)), diagnostics)


def judged(encoder: VisionEncoder, texts: Texts, pairs_S2: Tensor) -> Tensor:
    """Whether the host holds each statement true of its pair of images, (S,) bool."""

    def held(rows: Tensor) -> Tensor:
        asked = texts.rows(rows)
        first, second = (encoder.pair_tokens(images, asked) for images in pairs_S2[rows.cpu()].T)
        logits_B2 = encoder.host.model.compare(asked, first, second)
        require_finite(logits_B2)
        return logits_B2[:, 1] > logits_B2[:, 0]

    return encoder.map_shared(len(pairs_S2), held, "statements", images=pairs_S2)


def accuracies(
    held: Sequence[bool], statements: Sequence[PairStatement]
) -> dict[str, tuple[Sequence[str], Sequence[str], np.ndarray]]:
    """Outcomes by metric: one per statement, and one per group."""
    groups = [one.group for one in statements]
    right = np.array([given == one.label for given, one in zip(held, statements, strict=True)], dtype=np.float64)
    names, whole = consistency(right, groups)
    return {
        "nlvr2_accuracy": ([str(one.id) for one in statements], groups, right),
        "nlvr2_consistency": (names, names, whole),
    }
