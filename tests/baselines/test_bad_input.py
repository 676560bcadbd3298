"""What no method can work with is refused in one line that says what to do; what differs by image is not."""

from dataclasses import replace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from harness.cost.adaptive import ratio_on
from harness.hosts.build import build_host
from harness.hosts.parts.towers import open_tower
from harness.hosts.ready import check_learned, fill_method, load_host
from harness.hosts.weights.own import LearnedMethod, save_weights
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.reduction import StackShape, encode
from harness.reduction.budget import make_reducer
from harness.reduction.plan import Sample

SHAPE = StackShape(depth=12, patches=36, prefix=1, width=12, class_token=True, heads=2, grid=(6, 6))
ADAPTIVE = tuple(name for name, kind in methods.usable().items() if kind.adaptive)
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
    assert "learned with schedule begin=3,6,9 keep=0." in str(error.value)
    assert len(str(error.value)) < 250


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
        ("ats", {"oversampling": -0.5}),
        ("ats", {"sample_counts": (10, 5)}),
        ("madtp", {"temperature": -1.0}),
        ("madtp", {"least": 0}),
        ("mctf", {"tau_info": -1}),
        ("evit", {"schedule": {"begin": (3, 6), "keep": (0.5, 0.7)}}),
        ("evit", {"schedule": {"begin": (3, 12), "keep": (0.7, 0.5)}}),
        ("evit", {"schedule": {"begin": (3, 6), "keep": (0.7,)}}),
        ("dynamicvit", {"schedule": {"begin": (3, 13), "keep": (0.7, 0.5)}}),
        ("elip", {"schedule": {"begin": (2, 10), "keep": (0.9, 0.5), "lookahead": (2, 4)}}),
        ("elip", {"keep_tokens": (10, 20, 5)}),
        ("patchmerger", {"keep_tokens": (10, 20, 5)}),
        ("dpcknn", {"keep_tokens": (10, 20, 5)}),
        ("random", {"attention_tokens": (36,) * 11}),
        ("pitome", {"ratio": 1.5}),
        ("tofu", {"ratio": 0.0}),
        ("downsample", {"keep": 0.0}),
        ("pool", {"keep": 1.2}),
    ],
)
def test_lists_and_thresholds_that_cannot_be(name, settings):
    with pytest.raises(HarnessError) as error:
        make_reducer(name, SHAPE, settings=settings)
    one_line(error)


def test_weights_learned_with_another_host(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    host = build_host("albef-tiny")
    save_weights(host, path, "albef-tiny", method=("sit", make_reducer("sit", host.shape)))
    with pytest.raises(HarnessError, match="albef") as error:
        load_host("blip-tiny", path, "cpu", "float32")
    one_line(error)


def test_what_was_learned_in_another_tower():
    wider = replace(SHAPE, width=24)
    learned = make_reducer("sit", wider)
    found = LearnedMethod("sit", learned.config.model_dump(mode="json"), dict(learned.state_dict()))
    with pytest.raises(HarnessError, match="method sit: its weights do not fit this host") as error:
        fill_method(make_reducer("sit", SHAPE), found)
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


def test_a_method_of_the_fusion_side_in_a_tower_alone():
    with pytest.raises(HarnessError, match="pumer") as error:
        make_reducer("pumer", SHAPE)
    one_line(error)


def adaptive(name, settings, shape):
    torch.manual_seed(2)
    return make_reducer(name, shape, settings=settings).double().eval()


def images_unlike_each_other():
    """(4, 3, 48, 48): noise from hardly there to far beyond what a tower is used to."""
    noise = torch.randn(8, 3, 48, 48, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return noise[[1, 2, 3, 5]] * torch.tensor([0.05, 0.3, 1.0, 10.0], dtype=torch.float64)[:, None, None, None]


@pytest.mark.parametrize("name", ADAPTIVE)
def test_a_batch_in_which_every_image_keeps_another_count(name):
    opened, images = tower(), images_unlike_each_other()
    reducer = adaptive(name, {}, opened.shape)
    with torch.no_grad():
        together = encode(opened, reducer, images)
        alone = [encode(opened, reducer, image[None]) for image in images]
    counts = together.standing.sum(dim=1).tolist()
    assert len(set(counts)) == len(images)
    assert together.states.shape[1] == max(counts)
    for row, one in enumerate(alone):
        assert one.states.shape[1] == counts[row]
        here = together.states[row][together.standing[row]]
        assert torch.allclose(here, one.states[0][one.standing[0]], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ltmp", {"prune_threshold": 1.0}),
        ("ltmp", {"prune_threshold": 1.0, "merge_threshold": 0.0}),
        ("ats", {"oversampling": 1e-9}),
        ("madtp", {"temperature": 1e300}),
        ("madtp", {"temperature": 1e-300}),
        ("madtp", {"temperature": 5e-324}),
    ],
)
def test_an_image_of_which_an_adaptive_method_would_keep_nothing(name, settings):
    """The class token stands, nothing is undefined, and an image without content does no harm to those beside it."""
    opened = tower()
    images = torch.cat([torch.zeros(1, 3, 48, 48, dtype=torch.float64), images_unlike_each_other()])
    reducer = adaptive(name, settings, opened.shape)
    with torch.no_grad():
        tokens = encode(opened, reducer, images)
        alone = [encode(opened, reducer, image[None]) for image in images]
    assert bool(tokens.states[tokens.standing].isfinite().all())
    assert tokens.standing[:, 0].all()
    for row, one in enumerate(alone):
        here = tokens.states[row][tokens.standing[row]]
        assert torch.allclose(here, one.states[0][one.standing[0]], rtol=0, atol=1e-10)


@pytest.mark.parametrize(("name", "nearest"), [("madtp", {"temperature": 1e-12}), ("ats", {"oversampling": 1e6})])
def test_a_budget_that_no_bend_gives_is_refused_and_soon(name, nearest):
    """Between no removal and the least that there is (a softmax that picks one token, a token under every sample) these
    have nothing: looking for it is not to go on for all numbers that are nearer to 0."""
    opened, images = tower(), images_unlike_each_other()
    tried = []

    def measured(reducer):
        tried.append(reducer.config)
        return ratio_on(opened, Sample(images, None))(reducer.double())

    least = measured(adaptive(name, nearest, opened.shape))
    assert least < 0.97
    torch.manual_seed(2)
    with pytest.raises(HarnessError, match="not reachable") as error:
        make_reducer(name, opened.shape, ratio=(1 + least) / 2, measured=measured)
    one_line(error)
    assert len(tried) < 120
