"""BAT: the six costs of the authors' logs, and a case that a hand can follow."""

import pytest
import torch

from harness.kit.errors import HarnessError
from harness.reduction import Evidence, StackShape, TokenState
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

SMALL = StackShape(depth=12, patches=6, prefix=1, width=2, class_token=True)


def made(shape=SMALL, **settings):
    return make_reducer("bat", shape, settings=settings)


def test_attentive_twins_match_and_the_others_cluster():
    tokens = torch.tensor([[[9, 9], [4, 0], [8, 1], [0, 5], [1, 1], [1, 1], [-3, 2]]]).double()
    scores = torch.tensor([[0.3, 0.2, 0.15, 0.1, 0.1, 0.05]]).double()
    reducer = made(keep_rate=0.5, matches=1, surplus=1)
    assert token_counts(reducer).mlp[3] == 1 + 3 - 1 + 2
    left = reducer.between(3, TokenState(tokens).traced(), Evidence(cls_attention=scores, keys=tokens))
    # By score the first and third stand at even places, and the second is their match; the first is more like it.
    assert left.origin[0, :3].tolist() == [1, 1, 0]
    assert left.origin[0, 3] == left.origin[0, 4] != left.origin[0, 5]
    assert left.sizes[0].sum() == 7
    assert left.tokens[0, 2].tolist() == pytest.approx([(0.3 * 4 + 0.2 * 8) / 0.5, 0.2 / 0.5], abs=1e-4)


def test_a_ratio_keeps_the_surplus_of_its_rate():
    whole = StackShape(12, 196, 1, 2, True)
    rates = [make_reducer("bat", whole, ratio=ratio).config for ratio in (0.9, 0.5)]
    assert {config.surplus for config in rates} == {0}


@pytest.mark.parametrize("settings", [{"keep_rate": 0}, {"matches": -1}, {"blocks": (3, 20)}, {"neighbours": 0}])
def test_bad_settings(settings):
    with pytest.raises(HarnessError) as error:
        made(**settings)
    assert "\n" not in str(error.value)
