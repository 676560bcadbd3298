"""DynamicViT: published costs, the masked training path and its losses, on cases that can be checked by hand."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import StackShape, Tokens, encode
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

SHAPE = StackShape(depth=12, patches=196, prefix=1, width=8, class_token=True)


def made(shape=SHAPE, **settings):
    return make_reducer("dynamicvit", shape, settings=settings)


def small():
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=4, embed_dim=24, depth=4, num_heads=3, num_classes=0)
    tower = open_tower(model.double().eval())
    schedule = {"begin": [1, 2], "keep": [0.5, 0.25]}
    return tower, made(tower.shape, schedule=schedule).double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)


def test_counts_are_shares_of_the_input():
    counts = token_counts(made())
    assert counts.attention == [197] * 3 + [138] * 3 + [97] * 3 + [68] * 3


def test_in_training_all_tokens_stay_and_masks_only_fall():
    tower, reducer, images = small()
    tokens = encode(tower, reducer.train(), images)
    first, second = tokens.notes["mask_0"], tokens.notes["mask_1"]
    assert tokens.states.shape[1] == 65
    assert torch.equal(tokens.standing[:, 1:], second > 0.5)
    assert bool((second <= first).all())
    assert 0 < float(second.sum()) < float(first.sum()) < 128


def test_with_every_token_drawn_training_is_the_dense_tower_but_for_eps():
    tower, reducer, images = small()
    reducer.gumbel = [torch.tensor([100.0, 0.0]).double().expand(2, 64, 2)] * 2
    tokens = encode(tower, reducer.train(), images)
    dense = encode(tower, make_reducer("dense", tower.shape), images)
    torch.testing.assert_close(tokens.states, dense.states, rtol=0, atol=1e-4)
    assert not torch.equal(tokens.states, dense.states)
    assert float(tokens.notes["mask_1"].min()) == pytest.approx(1)


def test_hidden_tokens_do_not_reach_the_others_but_by_eps():
    tower, reducer, images = small()
    noise = torch.zeros(2, 64, 2).double()
    noise[:, :32, 0], noise[:, 32:, 1] = 100, 100
    reducer.gumbel = [noise, noise]
    tokens = encode(tower, reducer.train(), images)
    kept = encode(tower, Halving(make_reducer("dense", tower.shape).config, tower.shape), images)
    torch.testing.assert_close(tokens.states[:, :33], kept.states, rtol=0, atol=1e-4)


class Halving(type(make_reducer("dense", SHAPE))):
    """The first half of 64 tokens before block 1."""

    def before_block(self, block, state, stack, guide):
        return state.keep(torch.arange(32).repeat(len(state.tokens), 1)) if block == 1 else state


def test_losses_by_hand():
    reducer = made(schedule={"begin": [1, 2], "keep": [0.5, 0.25]}, ratio_weight=4, distill_weight=0.5)
    masks = {"mask_0": torch.tensor([[1.0, 1, 1, 0]]), "mask_1": torch.tensor([[1.0, 0, 0, 0]])}
    stands = torch.tensor([[True, True, False, False, False]])
    ours = Tokens(torch.zeros(1, 5, 2), mask=stands, notes=masks)
    dense = Tokens(torch.arange(10.0).view(1, 5, 2))
    losses = reducer.losses(ours, dense)
    assert float(losses["ratio"]) == 4 * (0.25**2 + 0) / 2
    assert float(losses["token"]) == 0.5 * (2**2 + 3**2) / 2
    assert set(reducer.losses(ours, None)) == {"ratio"}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"schedule": {"begin": [3], "keep": [1.2]}}, "keep ratio 1.2"),
        ({"schedule": {"begin": [12], "keep": [0.5]}}, "begin block 12"),
        ({"ratio_weight": -1}, "ratio_weight"),
    ],
)
def test_bad_settings(settings, reason):
    with pytest.raises(HarnessError, match=reason) as error:
        made(**settings)
    assert "\n" not in str(error.value)
