"""K-medoids: medoids on a line, first ones far apart, and the attention of the block before."""

import pytest
import torch

from harness.check.method import small_vit
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import StackShape, TokenState, Trace, encode
from harness.reduction.budget import make_reducer

SHAPE = StackShape(depth=12, patches=5, prefix=1, width=1, class_token=True)
LINE = torch.tensor([[[9.0], [0.0], [1.0], [2.0], [6.0], [9.0]]], dtype=torch.float64)


def made(shape=SHAPE, **settings):
    return make_reducer("kmedoids", shape, settings={"keep_tokens": (2, 2, 2), **settings})


def test_medoids_are_tokens_as_they_were():
    reducer = made(equal_weight=True)
    reducer.first_center = {0: torch.tensor([0])}
    left = reducer.before_block(3, TokenState(LINE).traced(), None, None)
    # First 0 and 9; a token's cost is its distance to all: of 0, 1, 2 that is least for 2, of 6 and 9 for 6.
    assert left.patch_tokens.flatten().tolist() == [2.0, 6.0]
    assert left.origin.tolist() == [[0, 0, 0, 1, 1]]
    assert left.sizes is None


def test_the_next_first_medoid_has_the_largest_distance_to_any():
    apart = (LINE[0, 1:] - LINE[0, 1:].T).abs().unsqueeze(0)
    chosen = made(equal_weight=True).spread(apart, 3, torch.tensor([1]))
    assert chosen.tolist() == [[1, 4, 0]]


def test_weights_come_from_the_block_before():
    reducer = made()
    state = TokenState(LINE).noted(received=torch.tensor([[1.0, 2.0, 9.0, 1.0, 8.0]]).double())
    medoids, _ = reducer.cluster(torch.zeros(1, 5, 5).double(), state.notes["received"], torch.tensor([[2, 4]]))
    assert medoids.shape == (1, 2)
    assert reducer.evidence(2) == {"attention_received"}
    assert not reducer.evidence(3)


def test_it_runs_with_the_counts_asked_for():
    tower, trace = open_tower(small_vit()), Trace()
    encode(tower, made(tower.shape, keep_tokens=(30, 20, 10)), torch.randn(2, 3, 64, 64).double(), trace=trace)
    assert trace.mlp == [65] * 3 + [31] * 3 + [21] * 3 + [11] * 3


def test_block_0_has_no_attention_before_it():
    schedule = {"begin": [0], "keep": [0.5]}
    with pytest.raises(HarnessError, match="no attention goes before it"):
        make_reducer("kmedoids", SHAPE, settings={"schedule": schedule})
    make_reducer("kmedoids", SHAPE, settings={"schedule": schedule, "equal_weight": True})


@pytest.mark.parametrize("settings", [{"iterations": -1}, {"keep_tokens": (2,)}])
def test_bad_settings(settings):
    with pytest.raises(HarnessError) as error:
        made(**settings)
    assert "\n" not in str(error.value)
