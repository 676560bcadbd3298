"""What becomes of patches, read off a trace."""

import torch

from harness.evaluation import batches, survival


def test_survival_tells_own_shared_and_gone():
    own, merged = survival(torch.tensor([[0, 1, 1, -1, 2]]))
    assert own.tolist() == [[True, False, False, False, True]]
    assert merged.tolist() == [[False, True, True, False, False]]


def test_batches_cover_everything_once():
    assert [(part.start, part.stop) for part in batches(5, 2)] == [(0, 2), (2, 4), (4, 5)]
