"""Fine-tuning on visual question answering: hosts say the annotators' answers, or pick them from a closed list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.data.pair_batch import PairBatch
from harness.hosts.host import HostModel, TextBatch
from harness.hosts.parts.answer_targets import AnswerTargets
from harness.hosts.parts.tokenizer import Tokenizer
from harness.objectives.downstream.parts.distilled import DistilledObjective, Encode
from harness.objectives.parts.objective import ObjectiveConfig, Pairs

ANNOTATORS = 10


@dataclass(frozen=True)
class Questions(Pairs):
    """Images, questions, and what was answered to them."""

    answers: AnswerTargets


class AnswerConfig(ObjectiveConfig):
    """`answers`: the closed list; empty for hosts that say answers in words of their own."""

    answers: tuple[str, ...] = ()


class AnswerObjective(DistilledObjective):
    """The mean over questions of the host's own answer loss."""

    NAME = "answer"
    NEEDS = frozenset({"answer"})
    Config = AnswerConfig

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.place = {answer: index for index, answer in enumerate(self.config.answers)}

    def config_entries(self) -> dict[str, Any]:
        return {"answers": list(self.config.answers)}

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Questions:
        ids, mask = tokenizer(batch.captions)
        given = [target for target in batch.targets if isinstance(target, tuple)]
        return Questions(batch.pixels, ids, mask, batch.sample_ids, answer_targets(given, self.place, tokenizer))

    def logits(self, host: HostModel, texts: TextBatch, encode: Encode, pairs: Questions) -> Tensor:
        return host.answer_outputs(texts, encode(pairs.pixels), pairs.answers)

    def loss(self, logits: Tensor, pairs: Questions, soft: Tensor | None, alpha: float) -> Tensor:
        return self.host.answer_losses(logits, pairs.answers, soft, alpha, self.recipe.label_smoothing).mean()


def answer_targets(given: Sequence[Sequence[str]], place: dict[str, int], tokenizer: Tokenizer) -> AnswerTargets:
    """What annotators said, question by question, as hosts learn it; `place`: where an answer stands in the list.

    An answer of the list is worth min(1, 0.3 x annotators out of ten who gave it), as in METER's released program.
    """
    counts = [Counter(answers) for answers in given]
    said = [
        (row, answer, count / len(given[row])) for row, found in enumerate(counts) for answer, count in found.items()
    ]
    ids, mask = tokenizer([answer for _, answer, _ in said])
    listed = [
        (row, place[answer], min(1.0, 0.3 * share * ANNOTATORS)) for row, answer, share in said if answer in place
    ]
    scores = torch.zeros(len(given), len(place))
    if listed:
        rows, columns, worth = zip(*listed)
        scores[list(rows), list(columns)] = torch.tensor(worth)
    return AnswerTargets(
        torch.tensor([row for row, _, _ in said], dtype=torch.int64),
        ids,
        mask,
        torch.tensor([share for _, _, share in said]),
        scores,
    )
