"""PPT: the published cost, and both ways of an image."""

import pytest
import torch

from harness.kit.errors import HarnessError
from harness.reduction import Evidence, StackShape, TokenState
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

SHAPE = StackShape(depth=12, patches=196, prefix=1, width=2, class_token=True)
SMALL = StackShape(depth=12, patches=4, prefix=1, width=2, class_token=True)


def made(shape=SHAPE, **settings):
    return make_reducer("ppt", shape, settings=settings)


def test_at_most_half_of_the_tokens_go():
    assert token_counts(made(SMALL, r=3)).mlp[2:] == [5, 3, 3, 3, 2, 2, 2, 2, 2, 2]


def test_each_image_goes_its_own_way():
    tokens = torch.tensor([[[9.0, 9.0], [3.0, 0.0], [4.0, 0.5], [0.0, 1.0], [0.0, -2.0]]] * 2).double()
    scores = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.3, 0.4]]).double()
    evidence = Evidence(cls_attention=scores, keys=tokens, value_norms=torch.ones(2, 5).double())
    left = made(SMALL, r=1, threshold=1e-3).between(3, TokenState(tokens).traced(), evidence)
    pooled, pruned = left.tokens
    assert pooled.tolist() == [[9.0, 9.0], [0.0, -2.0], [3.5, 0.25], [0.0, 1.0]]
    assert left.sizes[0].tolist() == [1, 1, 2, 1]
    assert pruned.tolist() == [[9.0, 9.0], [0.0, -2.0], [0.0, 1.0], [4.0, 0.5]]
    assert left.sizes[1].tolist() == [1, 1, 1, 1]
    assert left.origin.tolist() == [[1, 1, 2, 0], [-1, 2, 1, 0]]


def test_values_count_in_the_score():
    tokens = torch.randn(1, 5, 2, dtype=torch.float64)
    norms = torch.tensor([[1.0, 1, 9, 1, 1]]).double()
    evidence = Evidence(cls_attention=torch.full((1, 4), 0.2).double(), keys=tokens, value_norms=norms)
    left = made(SMALL, r=1, threshold=0).between(3, TokenState(tokens), evidence)
    assert torch.equal(left.tokens[0, 1], tokens[0, 2])


def test_without_proportional_attention_sizes_start_anew():
    tokens = torch.tensor([[[9.0, 9.0], [3.0, 0.0], [5.0, 0.0], [0.0, 1.0], [0.0, -2.0]]]).double()
    even = Evidence(cls_attention=torch.full((1, 4), 0.2).double(), keys=tokens, value_norms=torch.ones(1, 5).double())
    sized = TokenState(tokens, sizes=torch.tensor([[1.0, 3, 1, 1, 1]]).double())
    assert made(SMALL, r=1).between(3, sized, even).tokens[0, 2].tolist() == [3.5, 0.0]
    assert made(SMALL, r=1, proportional_attention=False).between(3, sized, even).tokens[0, 2].tolist() == [4.0, 0.0]


@pytest.mark.parametrize(
    "settings", [{"blocks": (3, 3)}, {"blocks": (3, 12)}, {"r": -1}, {"r_per_stage": (5,)}, {"threshold": -1}]
)
def test_bad_settings(settings):
    with pytest.raises(HarnessError) as error:
        made(**settings)
    assert "\n" not in str(error.value)
