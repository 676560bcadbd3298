"""What annotators answered, as hosts are trained on it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class AnswerTargets:
    """What annotators answered to B questions, for hosts that say answers and for those that pick a class.

    `rows` (R,): which question each of the R different answers is of; `ids`, `mask` (R, L): the answers as the
    tokenizer gives them; `weights` (R,): the share of a question's annotators who gave the answer. `scores` (B, A):
    what each answer of the closed list is worth, 0..1.
    """

    rows: Tensor
    ids: Tensor
    mask: Tensor
    weights: Tensor
    scores: Tensor
