"""What becomes of patches, read off a trace."""

import torch

from harness.evaluate.encoder import survival


def test_survival_tells_own_shared_and_gone():
    own, merged = survival(torch.tensor([[0, 1, 1, -1, 2]]))
    assert own.tolist() == [[True, False, False, False, True]]
    assert merged.tolist() == [[False, True, True, False, False]]
