"""ToFu: counts, and a merge whose norm can be computed by hand."""

import pytest
import torch

from harness.kit.errors import HarnessError
from harness.reduction import Evidence, StackShape, TokenState
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

SHAPE = StackShape(depth=12, patches=196, prefix=1, width=2, class_token=True)


def made(shape=SHAPE, **settings):
    return make_reducer("tofu", shape, settings=settings)


def test_the_ratio_counts_the_class_token_too():
    tokens, expected = 197, []
    for _ in range(12):
        tokens -= int(tokens - tokens * 0.9125)
        expected.append(tokens)
    assert token_counts(made()).mlp == expected


def four(shape):
    """A class token and four patches: the one at position 2 is most like the one at position 1."""
    tokens = torch.tensor([[[9.0, 9.0], [3.0, 0.0], [4.0, 0.1], [0.0, 1.0], [0.0, -2.0]]], dtype=torch.float64)
    return TokenState(tokens), Evidence(keys=tokens), made(shape, ratio=0.8)


def test_early_blocks_drop_the_source():
    state, evidence, reducer = four(StackShape(12, 4, 1, 2, True))
    left = reducer.between(6, state, evidence).tokens[0].tolist()
    assert left == [[9.0, 9.0], [0.0, -2.0], [3.0, 0.0], [0.0, 1.0]]


def test_late_blocks_keep_the_larger_norm_over_the_destinations():
    state, evidence, reducer = four(StackShape(12, 4, 1, 2, True))
    left = reducer.between(7, state, evidence)
    source, destination = state.tokens[0, 2], state.tokens[0, 1]
    expected = (source + destination) / 2 * source.norm() / destination.norm()
    torch.testing.assert_close(left.tokens[0, 2], expected)
    assert torch.equal(left.tokens[0, 3], state.tokens[0, 3])
    assert left.sizes is None


def test_mae_merges_by_the_plain_mean():
    state, evidence, _ = four(SHAPE)
    left = made(StackShape(12, 4, 1, 2, True), ratio=0.8, variant="mae").between(7, state, evidence)
    torch.testing.assert_close(left.tokens[0, 2], (state.tokens[0, 1] + state.tokens[0, 2]) / 2)


@pytest.mark.parametrize("settings", [{"ratio": 1.5}, {"variant": "clip"}, {"keep": 1}])
def test_bad_settings(settings):
    with pytest.raises(HarnessError) as error:
        made(**settings)
    assert "\n" not in str(error.value)
