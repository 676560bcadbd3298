"""DPC-KNN: clusters that the eye sees, draws of each image alone, and a learned weight."""

import pytest
import torch

from harness.kit.errors import HarnessError
from harness.reduction import StackShape, TokenState
from harness.reduction.budget import make_reducer

SHAPE = StackShape(depth=12, patches=5, prefix=1, width=1, class_token=True)
LINE = torch.tensor([[[9.0], [0.0], [0.1], [0.2], [5.0], [5.2]]], dtype=torch.float64)


def made(**settings):
    settings = {"keep_tokens": (2, 2, 2), "neighbours": 2, **settings}
    return make_reducer("dpcknn", SHAPE, settings=settings).double()


def reduced(reducer, tokens=LINE, keys=None):
    return reducer.before_block(3, TokenState(tokens, sample_keys=keys).traced(), None, None)


def test_two_groups_on_a_line_become_their_means():
    left = reduced(made(noise=0))
    assert left.patch_tokens.flatten().sort().values.tolist() == pytest.approx([0.1, 5.1], abs=1e-5)
    assert sorted(left.patch_sizes[0].tolist()) == [2, 3]
    first = left.origin[0, 0]
    assert left.origin[0].tolist() == [first, first, first, 1 - first, 1 - first]


def test_learned_weights_move_the_means_and_have_a_gradient():
    learned = made(noise=0, equal_weight=False)
    assert learned.learns
    assert not made().learns
    reduced(learned).tokens.square().sum().backward()
    gradient = learned.get_parameter("cluster_layers.0.score.weight").grad
    assert gradient.abs().max() > 0


def test_the_noise_is_an_images_own():
    reducer, tokens = made(noise=10), torch.randn(3, 6, 1, dtype=torch.float64)
    keys = torch.tensor([5, 6, 7])
    together = reduced(reducer, tokens, keys).tokens
    alone = [reduced(reducer, tokens[[row]], keys[[row]]).tokens for row in range(3)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("settings", [{"neighbours": 0}, {"noise": -1}, {"keep_tokens": (2, 3, 3)}])
def test_bad_settings(settings):
    with pytest.raises(HarnessError) as error:
        made(**settings)
    assert "\n" not in str(error.value)
