"""What no method can work with is refused in one line that says what to do; what differs by image is not."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from harness.hosts.build import build_host
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import check_learned
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.reduction import StackShape, encode
from harness.reduction.budget import make_reducer

SHAPE = StackShape(depth=12, patches=36, prefix=1, width=12, class_token=True, heads=2, grid=(6, 6))
LEARNED = ("crossget", "diffrate", "dynamicvit", "ltmp", "madtp", "patchmerger", "sinkhorn", "sit", "tps")


def config(name, **settings):
    return make_reducer(name, SHAPE, settings=settings).config.model_dump(mode="json")


def one_line(error):
    assert "\n" not in str(error.value)


def test_these_are_the_methods_that_learn():
    found = [name for name in methods.names() if "vision" in methods.get(name).stacks]
    assert {name for name in found if make_reducer(name, SHAPE).learns} >= set(LEARNED)


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_method_without_weights(name):
    with pytest.raises(HarnessError, match=name) as error:
        check_learned(name, config(name), None)
    one_line(error)


def test_weights_that_another_method_learned():
    with pytest.raises(HarnessError, match="tps") as error:
        check_learned("tps", config("tps"), ("dynamicvit", config("dynamicvit")))
    one_line(error)


def test_weights_learned_at_another_ratio():
    own, other = (make_reducer("sit", SHAPE, ratio=ratio).config.model_dump(mode="json") for ratio in (0.7, 0.5))
    check_learned("sit", own, ("sit", own))
    with pytest.raises(HarnessError, match="sit") as error:
        check_learned("sit", own, ("sit", other))
    one_line(error)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("diffrate", {"prune_kept": [37] * 11}),
        ("topk", {"keep_tokens": (10, 20, 5)}),
        ("sit", {"keep_tokens": (10, 5)}),
        ("tome", {"r": -1}),
        ("ltmp", {"merge_threshold": 1.5}),
        ("ltmp", {"prune_threshold": -0.1}),
        ("ppt", {"threshold": -1}),
    ],
)
def test_lists_and_thresholds_that_cannot_be(name, settings):
    with pytest.raises(HarnessError) as error:
        make_reducer(name, SHAPE, settings=settings)
    one_line(error)


def test_a_method_of_the_fusion_side_in_a_host_without_one():
    with torch.device("meta"):
        host = build_host("clip-tiny")
    with pytest.raises(HarnessError, match="pumer works in fusion") as error:
        make_reducer("pumer", host.shape)
    one_line(error)


def tower():
    torch.manual_seed(0)
    return open_tower(VisionTransformer(img_size=48, patch_size=8, embed_dim=12, depth=12, num_heads=2).double().eval())


@pytest.mark.parametrize("name", ["elip", "trips"])
def test_a_text_guided_method_without_a_text_keeps_every_token(name):
    opened, images = tower(), torch.randn(2, 3, 48, 48, dtype=torch.float64)
    with torch.no_grad():
        dense = encode(opened, make_reducer("dense", opened.shape), images)
        found = encode(opened, make_reducer(name, opened.shape).double().eval(), images)
    assert torch.equal(found.states, dense.states)


def test_an_image_of_which_an_adaptive_method_would_keep_nothing():
    opened, images = tower(), torch.randn(2, 3, 48, 48, dtype=torch.float64)
    reducer = make_reducer("ltmp", opened.shape, settings={"prune_threshold": 1.0}).double().eval()
    with torch.no_grad():
        tokens = encode(opened, reducer, images)
    assert bool(tokens.states[:, 0].isfinite().all())
    assert tokens.standing[:, 0].all()
