"""Ranks of right items among candidates, both ways, from scores that come in blocks of texts.

What is held is each query's best candidates so far, never all pairs' scores. Equal scores go to the lower index, so a
result depends on nothing but the scores. Shapes: T texts, I images, t texts of a block, Q queries (texts or images),
C candidates, K best candidates of a query.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.kit.errors import HarnessError

NO_RANK = 2**31 - 1


@dataclass(frozen=True)
class Shortlist:
    """The best candidates of each query: index (Q, K), rising along a row, and scores (Q, K)."""

    index: Tensor
    scores: Tensor

    def best(self, k: int) -> Shortlist:
        """The k best of them, or all where there are fewer."""
        columns_QK = best_columns(self.scores, k)
        return Shortlist(self.index.gather(1, columns_QK), self.scores.gather(1, columns_QK))

    def joined(self, later: Shortlist) -> Shortlist:
        """Both lists as one; every index of the later one is above every index of this one."""
        return Shortlist(torch.cat([self.index, later.index], 1), torch.cat([self.scores, later.scores], 1))

    def ranks(self, relevant_QK: Tensor) -> Tensor:
        """Rank (Q,), from 0, of each query's best relevant candidate; NO_RANK where none is in its list."""
        return best_ranks(self.scores, relevant_QK)


def shortlists(blocks: Iterable[Tensor], k: int) -> tuple[Shortlist, Shortlist]:
    """The k best images of each text and the k best texts of each image.

    blocks: scores (t, I) of consecutive texts against all images, at least one block. Raises HarnessError for scores
    that are not finite.
    """
    of_texts: list[Shortlist] = []
    of_images: Shortlist | None = None
    seen = 0
    for scores_tI in blocks:
        require_finite(scores_tI)
        texts, images = (torch.arange(count, device=scores_tI.device) for count in scores_tI.shape)
        of_texts.append(Shortlist(images.expand(scores_tI.shape), scores_tI).best(k))
        here = Shortlist((seen + texts).expand(scores_tI.T.shape), scores_tI.T).best(k)
        of_images = here if of_images is None else of_images.joined(here).best(k)
        seen += len(texts)
    assert of_images is not None
    whole = Shortlist(torch.cat([part.index for part in of_texts]), torch.cat([part.scores for part in of_texts]))
    return whole, of_images


def best_columns(scores_QC: Tensor, k: int) -> Tensor:
    """Columns (Q, min(k, C)) of each row's k highest scores, rising along a row."""
    k = min(k, scores_QC.shape[1])
    values_QK, columns_QK = scores_QC.topk(k, dim=1)
    columns_QK = columns_QK.sort(1).values
    threshold_Q1 = values_QK[:, -1:]
    # topk leaves open which of the scores that equal the last it takes; most rows have no more of them than it took.
    spare_Q = (scores_QC == threshold_Q1).sum(1) > (values_QK == threshold_Q1).sum(1)
    if spare_Q.any():
        columns_QK[spare_Q] = _lowest_columns(scores_QC[spare_Q], threshold_Q1[spare_Q], k)
    return columns_QK


def _lowest_columns(scores_QC: Tensor, threshold_Q1: Tensor, k: int) -> Tensor:
    """Columns (Q, k) of scores above a row's threshold, and the first of those at it."""
    above_QC, level_QC = scores_QC > threshold_Q1, scores_QC == threshold_Q1
    room_Q1 = k - above_QC.sum(1, keepdim=True)
    chosen_QC = above_QC | (level_QC & (level_QC.cumsum(1, dtype=torch.int32) <= room_Q1))
    return chosen_QC.nonzero()[:, 1].view(-1, k)


def best_ranks(scores_QC: Tensor, relevant_QC: Tensor) -> Tensor:
    """Rank (Q,), from 0, of each row's best relevant column: how many columns stand before it.

    relevant: (Q, C) bool. NO_RANK where no column of a row is relevant.
    """
    best_Q1, column_Q1 = scores_QC.masked_fill(~relevant_QC, -torch.inf).max(1, keepdim=True)
    columns_C = torch.arange(scores_QC.shape[1], device=scores_QC.device)
    before_QC = (scores_QC > best_Q1) | ((scores_QC == best_Q1) & (columns_C < column_Q1))
    return torch.where(relevant_QC.any(1), before_QC.sum(1), NO_RANK)


def require_numbers(scores: Tensor) -> None:
    """HarnessError for scores among which some are NaN; -inf stands for what is out of the question."""
    odd = int(scores.isnan().sum())
    if odd:
        raise HarnessError(f"{odd} of {scores.numel()} scores are NaN; check the weights, or take --dtype float32")


def require_finite(scores: Tensor) -> None:
    """HarnessError for scores among which some are NaN or infinite: no order of such candidates means anything."""
    odd = scores.numel() - int(scores.isfinite().sum())
    if odd:
        raise HarnessError(
            f"{odd} of {scores.numel()} scores of image-text pairs are NaN or infinite; check the weights, or take "
            "--dtype float32"
        )
