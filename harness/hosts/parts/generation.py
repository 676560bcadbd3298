"""Text one token at a time: batched beam search, and greedy decoding as the search with one beam.

What a search finds is what transformers' `generate` finds with its default early stopping, which the released
captioners use: of the 2K best continuations of K beams, those that end among the first K become candidates, and the
best K of the others go on. Equal scores go to the earlier beam, then to the lower token id, so a search is a function
of its input.

Shapes: B texts, K beams, L tokens so far (the given first ones included), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.kit.errors import HarnessError
from harness.metrics.ranking import require_numbers

Step = Callable[[Tensor], Tensor]


def generate(
    step: Step,
    first_ids_BL: Tensor,
    *,
    eos_id: int,
    pad_id: int,
    max_length: int,
    min_length: int = 0,
    beams: int = 3,
    repetition_penalty: float = 1.0,
    length_penalty: float = 1.0,
) -> Tensor:
    """The best continuation of each row: ids (B, max_length), the first ids included, padded after [eos_id].

    `step`: ids (B * K, L), rows of one text together -> logits (B * K, V) of the next token. Lengths are in tokens and
    count the first ids: eos_id follows `min_length` tokens at the earliest, and a text of `max_length` ends without it.
    A text's score is the sum of its new tokens' log-probabilities over their number ** `length_penalty` (0: the sum
    itself). `repetition_penalty` multiplies the log-probability of every token that stands already, the first ids
    included. HarnessError for impossible settings.
    """
    batch, first = first_ids_BL.shape
    _check(beams, first, min_length, max_length, repetition_penalty)
    device = first_ids_BL.device
    running_BKL = first_ids_BL.repeat_interleave(beams, 0).unflatten(0, (batch, beams))
    ended_BKL = running_BKL.new_full((batch, beams, max_length), pad_id)
    ended_BK = torch.full((batch, beams), -float("inf"), device=device)
    running_BK = ended_BK.clone()
    running_BK[:, 0] = 0  # at first the beams are equal: one of them stands for all
    improvable_B1 = torch.ones(batch, 1, dtype=torch.bool, device=device)
    for length in range(first + 1, max_length + 1):
        log_probs = next_log_probs(step, running_BKL.flatten(0, 1), eos_id, length <= min_length, repetition_penalty)
        total_BKV = running_BK[..., None] + log_probs.unflatten(0, (batch, beams))
        best_BM, places_BM = best_first(total_BKV.flatten(1), 2 * beams)
        tokens_BM = places_BM % total_BKV.shape[-1]
        grown_BML = torch.cat([_rows(running_BKL, places_BM // total_BKV.shape[-1]), tokens_BM[..., None]], dim=-1)
        ends_BM = (tokens_BM == eos_id) | (length == max_length)

        counted_BM = ends_BM & improvable_B1 & (torch.arange(ends_BM.shape[1], device=device) < beams)
        weight = (length - first) ** length_penalty
        candidates_BM = torch.cat([ended_BK, (best_BM / weight).masked_fill(~counted_BM, -float("inf"))], dim=1)
        ended_BK, kept_BK = best_first(candidates_BM, beams)
        padded_BML = F.pad(grown_BML, (0, max_length - length), value=pad_id)
        ended_BKL = _rows(torch.cat([ended_BKL, padded_BML], dim=1), kept_BK)

        running_BK, kept_BK = best_first(best_BM.masked_fill(ends_BM, -float("inf")), beams)
        running_BKL = _rows(grown_BML, kept_BK)
        improvable_B1 = improvable_B1 & (running_BK[:, :1] / weight > ended_BK[:, -1:])
        if not bool(improvable_B1.any()):
            break
    return ended_BKL[:, 0]


def next_log_probs(step: Step, ids_BL: Tensor, eos_id: int, too_short: bool, repetition_penalty: float) -> Tensor:
    """Log-probabilities (B, V) of the next token under a penalty on tokens that stand in ids (B, L) already.

    In float32 at least. `too_short`: eos_id is impossible. The penalised figures are not normalised again. HarnessError
    where a logit is NaN.
    """
    logits_BV = step(ids_BL)
    require_numbers(logits_BV)
    log_probs = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32)).log_softmax(-1)
    if repetition_penalty != 1:
        log_probs = log_probs.scatter(1, ids_BL, log_probs.gather(1, ids_BL) * repetition_penalty)
    if too_short:
        log_probs = log_probs.index_fill(1, torch.tensor([eos_id], device=log_probs.device), -float("inf"))
    return log_probs


def best_first(scores_BN: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` (or all N) highest scores of each row in descending order, and their places; ties in their order.

    `torch.topk` may choose either of two equal scores; answers that begin with the same word do have equal scores.
    """
    scores, places = scores_BN.sort(dim=1, descending=True, stable=True)
    return scores[:, :count], places[:, :count]


def _rows(values_BNL: Tensor, places_BM: Tensor) -> Tensor:
    """values (B, N, L) at the places (B, M) of their row -> (B, M, L)."""
    return values_BNL.gather(1, places_BM[..., None].expand(-1, -1, values_BNL.shape[-1]))


def _check(beams: int, first: int, min_length: int, max_length: int, repetition_penalty: float) -> None:
    if beams < 1:
        raise HarnessError(f"beams {beams}: expected at least 1")
    if first < 1 or max_length <= first:
        raise HarnessError(
            f"maximal length {max_length}: expected more than the {first} first tokens (at least one), which it counts"
        )
    if not 0 <= min_length <= max_length:
        raise HarnessError(f"minimal length {min_length}: expected 0 to the maximal length, {max_length}")
    if not repetition_penalty > 0:
        raise HarnessError(f"repetition penalty {repetition_penalty}: expected more than 0 (1 is none)")
