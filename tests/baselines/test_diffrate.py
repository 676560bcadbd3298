"""DiffRate: its published lists and their costs, learned counts, and a block that can be computed by hand."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from harness.cost.budget import tower_macs
from harness.cost.vits import build_vit
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import Evidence, StackShape, TokenState, encode
from harness.reduction.budget import make_reducer, realised_ratio

SHAPE = StackShape(depth=12, patches=196, prefix=1, width=384, class_token=True)
# OpenGVLab/DiffRate, compression_rate.json, DeiT-S at 2.3 GMACs.
PRUNED = (197, 192, 168, 143, 121, 105, 92, 74, 62, 45, 33, 3)
MERGED = (197, 180, 156, 127, 109, 98, 80, 66, 52, 37, 31, 3)


def made(shape=SHAPE, **settings):
    return make_reducer("diffrate", shape, settings=settings)


def test_its_own_count_of_multiply_adds_is_the_counted_one():
    model = build_vit("deit_small_patch16_224")
    other = 197 * 384 * 768 + 384 * 1000
    reducer = made(open_tower(model).shape, prune_kept=PRUNED, merge_kept=MERGED, other_flops=other)
    found = tower_macs(model, reducer, train_step=False).forward["main"]
    assert float(reducer.flops()) == pytest.approx(found + 384 * 768, rel=1e-6)  # the program counts CLS as a patch


def test_a_block_by_hand():
    shape = StackShape(depth=1, patches=4, prefix=1, width=2, class_token=True)
    reducer = made(shape, prune_kept=[4], merge_kept=[3])
    tokens = torch.tensor([[[9.0, 9.0], [0.0, 1.0], [2.0, 0.0], [3.0, 3.0], [5.0, 5.0]]]).double()
    scores = torch.tensor([[0.2, 0.4, 0.3, 0.1]]).double()
    left = reducer.eval().between(0, TokenState(tokens).traced(), Evidence(cls_attention=scores))
    # Order: 1, 2, 0 (3 is pruned); 0 merges into 2, with a cosine of 1 / sqrt(2).
    torch.testing.assert_close(left.tokens[0, 1:], torch.tensor([[2.0, 0.0], [1.5, 2.0]]).double())
    torch.testing.assert_close(left.sizes[0], torch.tensor([1.0, 1.0, 1 + 0.5**0.5]).double())
    assert left.origin.tolist() == [[1, 0, 1, -1]]


def small():
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=4, embed_dim=24, depth=6, num_heads=3, num_classes=0)
    tower = open_tower(model.double().eval())
    return tower, made(tower.shape, granularity=1).double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)


def test_training_hides_what_evaluation_removes():
    tower, reducer, images = small()
    with torch.no_grad():  # nothing merges: sizes of training are clamped, those of evaluation are not
        for logits in reducer.merge.logits:
            logits[0] += 1000
    reducer.read_counts()
    hidden = encode(tower, reducer.train(), images)
    removed = encode(tower, reducer.eval(), images)
    live = removed.states.shape[1]
    assert hidden.states.shape[1] == 65
    assert live < 65
    assert hidden.standing.sum(dim=1).tolist() == [live, live]
    torch.testing.assert_close(hidden.states[:, :live], removed.states, rtol=0, atol=1e-3)


def test_counts_that_were_trained_or_loaded_are_what_is_evaluated():
    tower, reducer, images = small()
    before = encode(tower, reducer.eval(), images).states.shape[1]
    encode(tower, reducer.train(), images)
    with torch.no_grad():
        for counts in (reducer.prune, reducer.merge):
            for logits in counts.logits:
                logits.add_(torch.linspace(-50, 50, len(logits)))
    after = encode(tower, reducer.eval(), images).states.shape[1]
    again = made(tower.shape, granularity=1).double()
    again.load_state_dict(reducer.state_dict())
    assert encode(tower, again.eval(), images).states.shape[1] == after < before


def test_both_counts_of_a_block_have_the_gradient_of_the_smaller():
    _, reducer, _ = small()
    reducer.flops().backward()
    first, second = reducer.prune.logits[2].grad, reducer.merge.logits[2].grad
    assert first.abs().max() > 0
    assert second.abs().max() > 0


def test_learned_counts_start_at_the_ratio_and_aim_at_its_cost():
    for ratio in (0.7, 0.5):
        reducer = make_reducer("diffrate", SHAPE, ratio=ratio)
        assert realised_ratio(reducer) == pytest.approx(ratio, abs=0.01)
        assert float(reducer.flops()) / 1e9 == pytest.approx(reducer.target, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"prune_kept": [197] * 11}, "11 kept counts"), ({"merge_kept": [1] * 12}, "at least 2"), ({"bend": -1}, "bend")],
)
def test_bad_settings(settings, reason):
    with pytest.raises(HarnessError, match=reason) as error:
        made(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("patches", "granularity"), [(25, 1), (100, 4), (49, 1)])
def test_a_mean_that_is_a_whole_number_is_rounded_as_the_programs_product_is(patches, granularity):
    shape = StackShape(depth=3, patches=patches, prefix=1, width=8, class_token=True)
    counts = make_reducer("diffrate", shape, settings={"granularity": granularity}).prune
    torch.nn.init.zeros_(counts.logits[0])
    candidates = torch.arange(patches, 0, -granularity).float()
    expected = torch.matmul(candidates, torch.zeros_like(candidates).softmax(dim=0)).ceil() + 1
    assert counts.count(1) == expected
