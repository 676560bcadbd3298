"""LTMP: thresholds by hand, images that keep different numbers, what training aims at."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import Evidence, StackShape, TokenState, encode
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

SHAPE = StackShape(depth=2, patches=4, prefix=1, width=2, class_token=True)


def made(shape=SHAPE, **settings):
    return make_reducer("ltmp", shape, settings=settings).double().eval()


def four():
    """A class token and four patches: of those at even positions 2 is like 1, and 4 like none at an odd one."""
    tokens = torch.tensor([[[9.0, 9.0], [1.0, 0.0], [2.0, 0.25], [0.0, 1.0], [-1.0, -1.0]]]).double()
    importance = torch.tensor([[0.5, 0.1, 0.3, 0.05, 0.2]]).double()
    return TokenState(tokens).traced().noted(importance=importance), Evidence(keys=tokens)


def test_alike_tokens_merge_by_size_and_stand_behind_the_others():
    state, evidence = four()
    left = made(merge_threshold=0.9).between(0, state, evidence)
    expected = torch.tensor([[-1.0, -1.0], [1.5, 0.125], [0.0, 1.0]]).double()
    torch.testing.assert_close(left.tokens[0, 1:], expected)
    assert left.sizes.tolist() == [[1, 1, 2, 1]]
    assert left.origin.tolist() == [[1, 1, 2, 0]]


def test_importance_goes_with_what_merges_and_decides_what_is_pruned():
    state, evidence = four()
    left = made(merge_threshold=0.9, prune_threshold=0.25).between(0, state, evidence)
    torch.testing.assert_close(left.tokens[0, 1:], torch.tensor([[1.5, 0.125]]).double())
    assert left.origin.tolist() == [[0, 0, -1, -1]]


def test_training_keeps_every_token_and_hides_the_same():
    state, evidence = four()
    reducer = made(merge_threshold=0.9, prune_threshold=0.25).train()
    left = reducer.between(0, state, evidence)
    assert left.tokens.shape[1] == 5
    assert left.standing.tolist() == [[True, False, False, True, False]]
    torch.testing.assert_close(left.tokens[0, 3], torch.tensor([1.5, 0.125]).double())
    assert torch.equal(left.tokens[0, 1], state.tokens[0, 2])


def test_a_mask_has_the_gradient_of_the_sigmoid():
    reducer = made(tau=0.5)
    threshold = reducer.prune[0]
    reducer.above(torch.tensor([0.3]).double(), threshold).backward()
    soft = torch.tensor(0.3 / 0.5).double().sigmoid()
    assert float(threshold.grad) == pytest.approx(-float(soft * (1 - soft)) / 0.5)


def small():
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=4, embed_dim=24, depth=4, num_heads=3, num_classes=0)
    return open_tower(model.double().eval()), torch.randn(2, 3, 32, 32, dtype=torch.float64)


def test_an_image_may_keep_nothing_but_its_class_token():
    tower, images = small()
    tokens = encode(tower, made(tower.shape, prune_threshold=1), images)
    assert tokens.standing.sum(dim=1).tolist() == [1, 1]
    assert bool(tokens.states[tokens.standing].isfinite().all())


def test_thresholds_stay_between_0_and_1_in_training():
    tower, images = small()
    reducer = made(tower.shape).train()
    with torch.no_grad():
        reducer.merge[0].fill_(1.3)
        reducer.prune[0].fill_(-0.2)
    encode(tower, reducer, images)
    assert (float(reducer.merge[0]), float(reducer.prune[0])) == (1, 0)


def test_the_loss_aims_at_the_ratio_that_is_asked_for():
    tower, images = small()
    shape = tower.shape
    reducer = make_reducer("ltmp", shape, ratio=0.8, measured=lambda reducer: 1 - reducer.config.bend / 10)
    assert reducer.config.reduction_target == 0.8
    assert reducer.config.bend == pytest.approx(2, abs=0.1)
    full = encode(tower, made(shape, merge_threshold=1).train(), images)
    kept = made(shape, merge_threshold=1, reduction_target=0.5, flops_weight=10)
    assert float(kept.losses(full, None)["flops"]) == pytest.approx(10 * 0.25)


def test_counts_are_not_planned():
    with pytest.raises(HarnessError, match="another number of tokens in every image"):
        token_counts(made())


@pytest.mark.parametrize("settings", [{"merge_threshold": 1.5}, {"tau": 0}, {"reduction_target": 0}])
def test_bad_settings(settings):
    with pytest.raises(HarnessError) as error:
        made(**settings)
    assert "\n" not in str(error.value)
