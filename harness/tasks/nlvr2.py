"""NLVR2: whether a statement about two images is true, and whether it is judged right of all its pairs of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from harness.data.formats import ImageTextSet, PairStatement, load_nlvr2
from harness.errors import HarnessError
from harness.evaluation import VisionEncoder, batches, encode_texts
from harness.metrics.accuracy import consistency
from harness.metrics.ranking import require_finite
from harness.task import Outcome, Task, TaskData, TaskOptions

LEARNT = "ALBEF, BLIP and METER learn it: python -m harness finetune --task nlvr2 --model albef-tiny --data DIR"


class Nlvr2Options(TaskOptions):
    """blank_images: show the mean colour instead of every image, to see what statements alone give away."""

    blank_images: bool = False


class Nlvr2(Task):
    """`nlvr2_accuracy`: the share of statements judged right; a statement is judged true when its logit is the higher.

    `nlvr2_consistency`: the share of groups, statements of the same words about other pairs of the same set of images,
    all of which are judged right. Text-guided methods encode both images anew for each statement. Statements of a
    group are resampled together.
    """

    NEEDS = frozenset({"compare"})
    READS = "statements"
    Options = Nlvr2Options
    metrics = ("nlvr2_accuracy", "nlvr2_consistency")

    def load(self, folder: Any, limit: int | None) -> ImageTextSet:
        return load_nlvr2(folder, limit)

    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        assert isinstance(options, Nlvr2Options)
        host, statements = encoder.host, data.annotations.statements
        if not self.NEEDS & host.model.abilities:
            raise HarnessError(f"nlvr2: {host.model.cannot('compare')}; {LEARNT}")
        if not statements:
            raise HarnessError("nlvr2: the data has no statements about pairs of images")
        if options.blank_images:
            encoder.images = torch.zeros_like(encoder.images)
        place = {image: index for index, image in enumerate(data.annotations.images)}
        pairs = [(place[one.images[0]], place[one.images[1]]) for one in statements]
        held, cut = judged(encoder, [one.text for one in statements], pairs)
        return Outcome("nlvr2", accuracies(held, statements), {"truncated_texts": cut} if cut else {})


def judged(
    encoder: VisionEncoder, statements: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> tuple[list[bool], int]:
    """Whether the host holds each statement true of its pair of images, and how many statements were cut."""
    host = encoder.host
    before = host.tokenizer.truncated
    texts = encode_texts(host, statements, 4 * encoder.batch_size)
    pairs_P2 = torch.tensor(pairs, device=host.device)
    held: list[bool] = []
    with encoder.progress.bar("statements", len(statements)) as bar:
        for part in batches(len(statements), encoder.batch_size):
            rows = torch.arange(part.start, part.stop, device=host.device)
            asked = texts.rows(rows)
            first, second = (encoder.pair_states(pairs_P2[rows, side], asked) for side in (0, 1))
            logits_B2 = host.model.compare(asked, first, second)
            require_finite(logits_B2)
            held += (logits_B2[:, 1] > logits_B2[:, 0]).tolist()
            bar.advance(len(rows))
    return held, host.tokenizer.truncated - before


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
