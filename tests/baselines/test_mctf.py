"""MCTF: counts, published costs, every mode, and fusions that can be computed by hand."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import StackShape, Tokens, TokenState, Trace, encode
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

SHAPE = StackShape(depth=12, patches=196, prefix=1, width=8, class_token=True)


def made(shape=SHAPE, **settings):
    return make_reducer("mctf", shape, settings=settings)


def test_sixteen_tokens_fuse_in_every_block_but_the_first():
    assert token_counts(made()).mlp == [197 - 16 * block for block in range(12)]


def test_ten_tokens_are_left():
    small = StackShape(depth=12, patches=30, prefix=1, width=8, class_token=True)
    assert token_counts(made(small)).mlp[:4] == [31, 16, 10, 10]


@pytest.mark.parametrize("ahead", [0, 1, 2])
@pytest.mark.parametrize("pooling", ["size", "attention", "max", "mean"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_every_mode_reduces_and_loses_no_patch(ahead, pooling, bidirectional):
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=4, embed_dim=24, depth=4, num_heads=3, num_classes=0).double()
    tower = open_tower(model.eval())
    settings = {"r": 7, "one_step_ahead": ahead, "pooling": pooling, "bidirectional": bidirectional}
    trace = Trace(origins_wanted=True)
    tokens = encode(tower, made(tower.shape, **settings), torch.randn(2, 3, 32, 32, dtype=torch.float64), None, trace)
    assert tokens.states.shape[1] == 65 - 3 * 7
    assert torch.equal(tokens.sizes.sum(dim=1), torch.full((2,), 65.0).double())
    assert int(tokens.origin.min()) >= 0
    tokens.states.square().mean().backward()
    assert model.patch_embed.proj.weight.grad.abs().max() > 0


def test_what_a_token_absorbed_goes_with_it():
    shape = StackShape(depth=12, patches=7, prefix=1, width=2, class_token=True)
    angles = torch.tensor([[0.0, 0.4, 0.01, 1.2, 0.015, 2.2, 3.0, 3.9]]).double()
    state = TokenState(torch.stack([angles.cos(), angles.sin()], dim=-1))
    reducer = made(shape, tau_info=0, tau_size=0)
    source, into, rest = reducer.match(state, torch.ones(1, 8).double(), 2)
    # Behind the class token: 1 (.01) and 3 (.015) are even. 1 or 3 goes to 0 (.4) first, which then goes to the other.
    assert sorted(source[0].tolist()) in ([0, 1], [0, 3])
    assert len(set(into[0].tolist())) == 1
    assert sorted(rest[0].tolist()) == sorted(set(range(7)) - set(source[0].tolist()))


@pytest.mark.parametrize("pooling", ["size", "attention", "max", "mean"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_what_fuses_is_pooled_over_all_that_a_token_holds(pooling, bidirectional):
    torch.manual_seed(0)
    shape = StackShape(depth=12, patches=20, prefix=1, width=6, class_token=True)
    reducer = made(shape, pooling=pooling, bidirectional=bidirectional)
    sizes, received = torch.randint(1, 4, (1, 21)).double(), torch.rand(1, 21).double()
    state = TokenState(torch.randn(1, 21, 6).double(), sizes=sizes)
    source, into, rest = reducer.match(state, received, 7)
    fused = reducer.fuse(state, source, into, rest, received)
    home = torch.arange(20).scatter(0, source[0], into[0])
    for place, token in enumerate(rest[0], 1):
        held = torch.where(home == token)[0] + 1
        weights = {"size": sizes, "attention": sizes * received}.get(pooling, torch.ones_like(sizes))[0, held]
        mean = weights @ state.tokens[0, held] / weights.sum()
        expected = state.tokens[0, held].amax(dim=0) if pooling == "max" else mean
        torch.testing.assert_close(fused.tokens[0, place], expected)
        assert fused.sizes[0, place] == sizes[0, held].sum()


def test_consistency_is_with_the_unreduced_class_token():
    reducer = made(consistency_weight=2)
    ours, dense = Tokens(torch.zeros(3, 5, 8)), Tokens(torch.full((3, 9, 8), 0.5))
    assert reducer.needs_dense
    assert float(reducer.losses(ours, dense)["consistency"]) == 0.5
    assert not made(consistency_weight=0).needs_dense


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"blocks": [12]}, "blocks"), ({"pooling": "sum"}, "pooling"), ({"r": -1}, "r"), ({"one_step_ahead": 3}, "one")],
)
def test_bad_settings(settings, reason):
    with pytest.raises(HarnessError, match=reason) as error:
        made(**settings)
    assert "\n" not in str(error.value)
