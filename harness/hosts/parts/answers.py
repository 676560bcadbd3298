"""Answers that a decoder says: what their words cost it, and which of a closed list it finds likeliest.

For a host whose decoder reads a question and says "[CLS] answer [SEP]" (its first token is where the decoder starts):
`answer_word_losses(logits_RLV, targets, soft, alpha, smoothing)` -> (B,) is its training loss, and
`rank_answers(first_logits_BV, losses_of, ids_AL, candidates)` -> (B, A) its ranking, where `losses_of(chosen_BK)` gives
the loss (B, K) of the answers in the rows chosen (B, K) of the list.

Shapes: B questions, R answers that annotators gave to them, A answers of a closed list, K candidates among them,
L tokens of an answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.hosts.parts.answer_targets import AnswerTargets
from harness.hosts.parts.generation import best_first

IGNORED = -100  # the label that no loss counts
CANDIDATES = 128  # `k_test` of the released programs of ALBEF and BLIP
AT_ONCE = 16  # candidates of every question that are scored together, which bounds the memory for logits


def token_losses(logits_BLV: Tensor, labels_BL: Tensor, smoothing: float = 0.0) -> Tensor:
    """Loss (B, L - 1) of each next token: logits at a position against the label behind it, 0 where it is IGNORED.

    The target's probability is 1 - smoothing plus smoothing / V, that of other words smoothing / V.
    """
    losses = F.cross_entropy(
        logits_BLV[:, :-1].flatten(0, 1), labels_BL[:, 1:].flatten(), reduction="none", label_smoothing=smoothing
    )
    return losses.view(len(labels_BL), -1)


def labels_of(ids_RL: Tensor, mask_RL: Tensor) -> Tensor:
    """Answers (R, L) as labels: IGNORED where no token stands."""
    return ids_RL.masked_fill(~mask_RL.bool(), IGNORED)


def answer_word_losses(
    logits_RLV: Tensor,
    targets: AnswerTargets,
    soft: Tensor | None = None,
    alpha: float = 0.0,
    smoothing: float = 0.0,
) -> Tensor:
    """Loss (B,) of each question: the sum over its answers' words, each answer times its weight.

    `soft` (R, L, V): a momentum twin's logits; a word's loss is then (1 - alpha) * loss + alpha * cross-entropy against
    their softmax. (The released ALBEF, models/xbert.py, takes the student's log-softmax over positions there instead of
    words; the paper's definition, arXiv 2107.07651 section 3.3, is over words.) Padding counts in neither.
    """
    labels_RL = labels_of(targets.ids, targets.mask)
    losses = token_losses(logits_RLV, labels_RL, smoothing)
    if soft is not None:
        probabilities = soft[:, :-1].flatten(0, 1).softmax(-1)
        distilled = F.cross_entropy(logits_RLV[:, :-1].flatten(0, 1), probabilities, reduction="none")
        ignored = labels_RL[:, 1:] == IGNORED
        losses = (1 - alpha) * losses + alpha * distilled.view_as(losses).masked_fill(ignored, 0.0)
    weighted_R = losses.sum(1) * targets.weights
    return weighted_R.new_zeros(len(targets.scores)).index_add(0, targets.rows, weighted_R)


def rank_answers(
    first_logits_BV: Tensor,
    losses_of: Callable[[Tensor], Tensor],
    ids_AL: Tensor,
    candidates: int = CANDIDATES,
) -> Tensor:
    """Score (B, A) of each answer of a closed list, ids (A, L) "[CLS] answer [SEP]".

    `first_logits` (B, V): of the word behind the decoder's start token. The `candidates` answers whose first word it
    finds likeliest are scored by the negative of losses_of(chosen (B, K)) -> (B, K), called for AT_ONCE of them at a
    time; the others have -inf (`rank_answer` of the released ALBEF, models/model_vqa.py, and BLIP, blip_vqa.py).
    """
    _, chosen_BK = best_first(first_logits_BV[:, ids_AL[:, 1]], candidates)
    scores_BK = -torch.cat([losses_of(part) for part in chosen_BK.split(AT_ONCE, dim=1)], dim=1)
    nowhere_BA = scores_BK.new_full((len(chosen_BK), len(ids_AL)), -float("inf"))
    return nowhere_BA.scatter(1, chosen_BK, scores_BK)
