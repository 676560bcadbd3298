"""Ranks and shortlists, on matrices small enough to check by hand and against sorting everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.kit.errors import HarnessError
from harness.metrics.ranking import NO_RANK, Shortlist, best_columns, best_ranks, shortlists


def in_order(scores: list[float]) -> list[int]:
    """Candidates, the best first, ties to the lower index: slow and plain."""
    return sorted(range(len(scores)), key=lambda index: (-scores[index], index))


def with_ties(rows: int, columns: int, seed: int) -> Tensor:
    """Random scores of seven values only."""
    return torch.randint(-3, 4, (rows, columns), generator=torch.Generator().manual_seed(seed)).float()


def test_rank_of_the_best_relevant_candidate() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]])
    relevant = torch.tensor([[True, False, True], [False, False, True]])
    assert best_ranks(scores, relevant).tolist() == [1, 2]


def test_ties_go_to_the_lower_index() -> None:
    scores = torch.tensor([[0.5, 0.5, 0.5]])
    assert best_ranks(scores, torch.tensor([[False, True, False]])).tolist() == [1]
    assert best_ranks(scores, torch.tensor([[True, False, False]])).tolist() == [0]
    assert best_ranks(scores, torch.tensor([[False, True, True]])).tolist() == [1]


def test_without_a_relevant_candidate_there_is_no_rank() -> None:
    scores = torch.tensor([[0.9, 0.8], [0.9, 0.8]])
    assert best_ranks(scores, torch.tensor([[False, False], [False, True]])).tolist() == [NO_RANK, 1]


def test_best_columns_rise_and_equal_scores_go_to_the_lower() -> None:
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.5, 0.9], [2.0, 2.0, 2.0, 2.0, 2.0]])
    assert best_columns(scores, 3).tolist() == [[1, 2, 4], [0, 1, 2]]


def test_k_beyond_the_candidates_takes_them_all() -> None:
    assert best_columns(torch.rand(2, 3), 16).tolist() == [[0, 1, 2], [0, 1, 2]]


def test_ranks_of_a_shortlist_are_those_of_the_whole_list_or_none() -> None:
    texts, images = shortlists([torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0]])], 2)
    assert texts.index.tolist() == [[0, 2], [1, 2]]
    assert texts.scores.tolist() == [[3.0, 2.0], [1.0, 2.0]]
    assert texts.ranks(texts.index == torch.tensor([[2], [0]])).tolist() == [1, NO_RANK]
    assert images.index.tolist() == [[0, 1]] * 3
    assert images.scores.tolist() == [[3.0, 0.0], [1.0, 1.0], [2.0, 2.0]]


@pytest.mark.parametrize("block", [1, 4, 23])
@pytest.mark.parametrize("k", [1, 5, 23, 40])
def test_shortlists_and_ranks_equal_those_of_sorting_everything(block: int, k: int) -> None:
    scores = with_ties(23, 17, seed=k)
    owner = torch.randint(0, 17, (23,), generator=torch.Generator().manual_seed(0))
    for side, whole, relevant in zip(
        shortlists(scores.split(block), k),
        (scores, scores.T),
        (owner[:, None] == torch.arange(17), owner == torch.arange(17)[:, None]),
        strict=True,
    ):
        ranks = side.ranks(relevant.gather(1, side.index)).tolist()
        for query, row in enumerate(whole.tolist()):
            order = in_order(row)
            assert side.index[query].tolist() == sorted(order[:k])
            assert side.scores[query].tolist() == [row[index] for index in sorted(order[:k])]
            right = [place for place, index in enumerate(order[:k]) if relevant[query, index]]
            assert ranks[query] == min(right, default=NO_RANK)


def test_the_best_of_a_shortlist_are_the_best_of_all() -> None:
    scores = with_ties(12, 30, seed=3)
    long, _ = shortlists([scores], 20)
    short, _ = shortlists([scores], 6)
    assert torch.equal(long.best(6).index, short.index)
    assert torch.equal(long.best(6).scores, short.scores)


def test_a_later_list_is_behind_in_a_tie() -> None:
    joined = Shortlist(torch.tensor([[0, 4]]), torch.tensor([[1.0, 2.0]])).joined(
        Shortlist(torch.tensor([[5, 6]]), torch.tensor([[2.0, 1.0]]))
    )
    assert joined.best(1).index.tolist() == [[4]]
    assert joined.best(3).index.tolist() == [[0, 4, 5]]


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_have_no_order_are_refused(odd: float) -> None:
    scores = torch.zeros(3, 4)
    scores[1, 2] = odd
    with pytest.raises(HarnessError, match=r"1 of 12 scores .* NaN or infinite"):
        shortlists([scores], 2)
