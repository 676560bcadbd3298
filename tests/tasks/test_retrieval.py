"""Ranks and candidates, on matrices small enough to check by hand."""

import torch

from harness.tasks.retrieval import best_ranks, masked, top_mask


def test_rank_of_the_best_relevant_candidate():
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.1]])
    relevant = torch.tensor([[True, False, True], [False, False, True]])
    assert best_ranks(scores, relevant).tolist() == [1, 2]


def test_ties_go_to_the_lower_index():
    scores = torch.tensor([[0.5, 0.5, 0.5]])
    assert best_ranks(scores, torch.tensor([[False, True, False]])).tolist() == [1]
    assert best_ranks(scores, torch.tensor([[True, False, False]])).tolist() == [0]


def test_a_relevant_item_outside_the_candidates_is_a_miss_at_every_cutoff():
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    candidates = masked(scores, torch.tensor([[True, True, False]]))
    assert best_ranks(candidates, torch.tensor([[False, False, True]])).tolist() == [3]


def test_top_mask_takes_k_per_query():
    mask = top_mask(torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.2, 0.3]]), 2)
    assert mask.tolist() == [[False, True, True], [True, False, True]]


def test_k_beyond_the_candidates_takes_them_all():
    assert top_mask(torch.rand(2, 3), 16).all()
