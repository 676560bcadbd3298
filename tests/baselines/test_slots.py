"""PatchMerger, Sinkhorn and SiT: K learned mixtures, of which the simplest can be computed by hand."""

import pytest
import torch
from torch.nn import functional as F

from harness.kit.errors import HarnessError
from harness.reduction import StackShape, TokenState
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

SHAPE = StackShape(depth=12, patches=6, prefix=1, width=4, class_token=True)
METHODS = ("patchmerger", "sinkhorn", "sit")


def made(name, **settings):
    return make_reducer(name, SHAPE, settings={"keep_tokens": (3, 2, 2), **settings})


def reduced(reducer, tokens):
    return reducer.before_block(3, TokenState(tokens).traced(), None, None)


@pytest.mark.parametrize("name", METHODS)
def test_k_mixtures_with_a_class_token_untouched(name):
    tokens = torch.randn(2, 7, 4)
    left = reduced(made(name), tokens)
    assert left.tokens.shape == (2, 4, 4)
    assert torch.equal(left.tokens[:, 0], tokens[:, 0])
    assert torch.equal(left.origin, left.notes["assignment_3"])
    assert token_counts(made(name)).mlp == [7] * 3 + [4] * 3 + [3] * 6


@pytest.mark.parametrize("name", METHODS)
def test_every_stage_has_a_layer_and_none_where_all_tokens_stay(name):
    assert sorted({key.split(".")[1] for key, _ in made(name).named_parameters()}) == ["0", "1", "2"]
    assert not list(make_reducer(name, SHAPE, ratio=1.0).parameters())


def test_queries_of_zero_read_the_mean_of_the_normalised_tokens():
    reducer, tokens = made("patchmerger"), torch.randn(1, 7, 4)
    torch.nn.init.zeros_(reducer.get_parameter("cluster_layers.0.queries"))
    expected = F.layer_norm(tokens[:, 1:], (4,)).mean(dim=1)
    torch.testing.assert_close(reduced(reducer, tokens).tokens[:, 3], expected)


def test_a_scale_of_zero_gives_every_slot_the_mean():
    reducer, tokens = made("sit"), torch.randn(1, 7, 4)
    torch.nn.init.zeros_(reducer.get_parameter("cluster_layers.0.scale"))
    torch.testing.assert_close(reduced(reducer, tokens).tokens[:, 1], tokens[:, 1:].mean(dim=1))


def test_every_token_is_transported_whole():
    torch.manual_seed(0)
    tokens = torch.randn(2, 6, 4).double()
    layers = (made("sinkhorn", eps=0.5, iterations=n).double().cluster_layers["0"] for n in (3, 300))
    plan, many = (layer(tokens)[1] for layer in layers)
    torch.testing.assert_close(plan.sum(dim=1), torch.ones(2, 6).double())
    torch.testing.assert_close(many.sum(dim=2), torch.full((2, 3), 2.0).double())


def test_the_length_of_a_centre_does_not_count():
    reducer, tokens = made("sinkhorn"), torch.randn(1, 7, 4)
    before = reduced(reducer, tokens).tokens
    with torch.no_grad():
        reducer.get_parameter("cluster_layers.0.v").mul_(3)
    torch.testing.assert_close(reduced(reducer, tokens).tokens, before)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sinkhorn", {"eps": 0}),
        ("sinkhorn", {"iterations": -1}),
        ("sit", {"keep_tokens": (2, 3, 3)}),
        ("sit", {"k": 1}),
    ],
)
def test_bad_settings(name, settings):
    with pytest.raises(HarnessError) as error:
        made(name, **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", METHODS)
def test_every_stage_mixes_where_any_leaves_fewer(name):
    assert len(made(name, keep_tokens=(6, 3, 3)).cluster_layers) == 3
    assert len(made(name, keep_tokens=(6, 6, 6)).cluster_layers) == 0
