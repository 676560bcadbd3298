"""TPS: a squeeze that can be computed by hand, in evaluation and in training."""

from math import e, exp, sqrt

import pytest
import torch

from harness.kit.errors import HarnessError
from harness.reduction import StackShape, TokenState
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

SHAPE = StackShape(depth=12, patches=196, prefix=1, width=8, class_token=True)


def made(shape=SHAPE, **settings):
    return make_reducer("tps", shape, settings=settings)


def test_counts_are_shares_of_the_input():
    assert token_counts(made()).mlp == [197] * 3 + [138] * 3 + [97] * 3 + [68] * 3


@pytest.mark.parametrize("temperature", [1, 2])
def test_a_dropped_token_goes_into_the_kept_one_most_like_it(temperature):
    tokens = torch.tensor([[[7.0, 7.0], [1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-3.0, 0.1]]]).double()
    state = TokenState(tokens).traced()
    reducer = made(temperature=temperature)
    left = reducer.remove(state, torch.tensor([[1, 0]]), torch.tensor([[2, 3]]))
    own, first, second = tokens[0, 1], tokens[0, 3], tokens[0, 4]
    # The third token is as like to both; the kept one that stands first has it. The fourth is less unlike the second.
    weight = exp(1 / sqrt(2) / temperature)
    far = exp(float(second[1] / second.norm()) / temperature)
    above = (e * tokens[0, 2] + weight * first + far * second) / (e + weight + far)
    torch.testing.assert_close(left.tokens[0], torch.stack([tokens[0, 0], above, own]), rtol=0, atol=1e-5)
    assert left.origin.tolist() == [[1, 0, 0, 0]]


def test_training_squeezes_as_evaluation_does():
    torch.manual_seed(0)
    state = TokenState(torch.randn(2, 9, 8, dtype=torch.float64))
    kept, dropped = torch.tensor([[4, 0, 2], [7, 1, 3]]), torch.tensor([[1, 3, 5, 6, 7], [0, 2, 4, 5, 6]])
    reducer = made(temperature=1.5)
    evaluated = reducer.remove(state, kept, dropped)
    mask = torch.zeros(2, 8).double().scatter(1, kept, 1.0)
    trained = reducer.conceal(state, torch.ones_like(mask), mask)
    torch.testing.assert_close(trained.keep(kept).tokens, evaluated.tokens)
    assert torch.equal(trained.patch_standing, mask > 0.5)


def test_the_ratio_loss_is_the_mean_over_stages():
    reducer = made(schedule={"begin": [1, 2], "keep": [0.5, 0.25]}, ratio_weight=2)
    state = TokenState(torch.zeros(1, 5, 2)).noted(
        mask_0=torch.tensor([[1.0, 1, 1, 0]]), mask_1=torch.tensor([[1.0, 1, 0, 0]])
    )
    assert float(reducer.losses(state.left(state.tokens), None)["ratio"]) == 2 * (0.25**2 + 0.25**2) / 2


@pytest.mark.parametrize("settings", [{"temperature": 0}, {"schedule": {"begin": [3, 2], "keep": [0.5, 0.4]}}])
def test_bad_settings(settings):
    with pytest.raises(HarnessError) as error:
        made(**settings)
    assert "\n" not in str(error.value)


def test_a_stage_that_leaves_as_many_as_there_were_orders_them_anew():
    keep = {"begin": [3, 6, 9], "keep": [0.5, 0.5, 0.25]}
    reducer = made(StackShape(12, 8, 1, 8, True), schedule=keep).eval()
    state = TokenState(torch.randn(2, 5, 8)).traced()
    left = reducer.before_block(6, state, None, None)
    assert sorted(left.notes["kept_1"][0].tolist()) == [0, 1, 2, 3]
    assert left.tokens.shape == state.tokens.shape
    whole = made(StackShape(12, 8, 1, 8, True), schedule={"begin": [3, 6], "keep": [1, 1]}).eval()
    assert whole.before_block(3, state, None, None) is state
