"""Top-K: counts as shares of the input, and EViT without its fused token."""

import pytest
import torch

from harness.check.method import small_vit
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import Evidence, StackShape, TokenState, encode
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

SHAPE = StackShape(depth=12, patches=196, prefix=1, width=2, class_token=True)


def test_counts_are_shares_of_the_input():
    assert sorted(set(token_counts(make_reducer("topk", SHAPE)).mlp)) == [68, 97, 138, 197]


def test_the_highest_scores_stand_first():
    tokens = torch.arange(10.0).view(1, 5, 2)
    reducer = make_reducer("topk", StackShape(12, 4, 1, 2, True), settings={"keep_tokens": (2, 2, 2)})
    left = reducer.between(3, TokenState(tokens), Evidence(cls_attention=torch.tensor([[0.1, 0.4, 0.1, 0.3]])))
    assert left.tokens[0].tolist() == [[0.0, 1.0], [4.0, 5.0], [8.0, 9.0]]


def test_it_is_evit_without_the_fused_token():
    tower, images = open_tower(small_vit()), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    topk = make_reducer("topk", tower.shape, settings={"keep_tokens": (32, 16, 8)})
    evit = make_reducer("evit", tower.shape, settings={"keep_rate": 0.5, "fuse": False})
    with torch.no_grad():
        assert torch.equal(encode(tower, topk, images).states, encode(tower, evit, images).states)


@pytest.mark.parametrize(
    "settings", [{"keep_tokens": (9, 8)}, {"keep_tokens": (8, 9, 9)}, {"keep_tokens": (999, 9, 9)}, {"rate": 1}]
)
def test_bad_settings(settings):
    with pytest.raises(HarnessError) as error:
        make_reducer("topk", SHAPE, settings=settings)
    assert "\n" not in str(error.value)


def test_a_list_and_a_ratio_both_set_the_budget():
    with pytest.raises(HarnessError, match="keep_tokens"):
        make_reducer("topk", SHAPE, ratio=0.5, settings={"keep_tokens": (9, 8, 7)})


def test_a_stage_that_drops_nothing_sorts_as_others_do():
    scores = torch.tensor([[0.2, 0.1, 0.4, 0.3]])
    state = TokenState(torch.arange(5.0).view(1, 5, 1)).traced()
    reducer = make_reducer("topk", StackShape(12, 4, 1, 1, True), settings={"keep_tokens": (4, 4, 2)})
    left = reducer.between(3, state, Evidence(cls_attention=scores))
    assert left.tokens.flatten().tolist() == [0, 3, 4, 1, 2]
