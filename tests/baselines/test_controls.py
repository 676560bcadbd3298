"""The controls: pool, downsample, and flip and resize, which reduce in training alone."""

import importlib

import pytest
import torch
from torch.nn import functional as F
from transformers import BlipVisionConfig, BlipVisionModel, CLIPVisionConfig, CLIPVisionModel

from harness.check.method import small_vit
from harness.cost.host import host_parts
from harness.cost.report import cost_report
from harness.hosts.build import build_host
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.reduction import StackShape, Trace, encode, patches_in, smaller_grid
from harness.reduction.budget import make_reducer, realised_ratio

IMAGES = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def encoded(name, trace=None, training=False, **settings):
    tower = open_tower(small_vit())
    reducer = make_reducer(name, tower.shape, settings=settings).train(training)
    with torch.no_grad():
        return encode(tower, reducer, IMAGES, None, trace)


def test_a_quarter_of_an_even_grid_is_average_pooling():
    tower = open_tower(small_vit())
    tokens = tower.open(IMAGES)
    reducer = make_reducer("pool", tower.shape)
    pooled = reducer.before_block(0, tokens.traced(), tower, None)
    grid = tokens.patch_tokens.transpose(1, 2).unflatten(2, (8, 8))
    assert torch.allclose(pooled.patch_tokens, F.avg_pool2d(grid, 2).flatten(2).transpose(1, 2), atol=1e-12)
    assert pooled.patch_sizes.tolist() == [[4.0] * 16] * 2
    assert pooled.origin[0].view(8, 8)[:3, :4].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [4, 4, 5, 5]]


@pytest.mark.parametrize("grid", [(8, 8), (7, 5), (3, 11), (1, 6)])
def test_any_number_of_cells_covers_the_grid(grid):
    cells = importlib.import_module(methods.get("pool").__module__).cells
    patches = grid[0] * grid[1]
    for wanted in range(1, patches + 1):
        found = cells(grid, wanted)
        assert sorted(set(found.tolist())) == list(range(wanted))
        sizes = torch.bincount(found)
        assert int(sizes.max()) <= 4 * -(-patches // wanted)


def test_what_reduces_in_training_alone_costs_dense_in_evaluation():
    for name in ("flip", "resize"):
        cost = cost_report("vit_tiny_patch16_224", name, ratio=0.5)
        assert cost["ratio"] == pytest.approx(0.5, abs=0.05)
        assert cost["tokens_per_mlp"][0] < 110
        assert cost["forward"]["total_gmacs"] == cost["dense"]["forward_gmacs"]
        assert cost["train_step"]["total_gmacs"] < 0.56 * cost["dense"]["train_step_gmacs"]
        full = cost_report("vit_tiny_patch16_224", "dense")
        assert cost["memory"]["train_mib_per_image"] < 0.6 * full["memory"]["train_mib_per_image"]


@pytest.mark.parametrize("name", ["flip", "resize"])
def test_a_host_s_step_in_pre_training_is_reduced(name):
    shape = build_host("albef-tiny").shape
    dense, reduced = (host_parts("albef-tiny", make_reducer(each, shape)) for each in ("dense", name))
    assert reduced["vision"]["train_step_gmacs"] < 0.6 * dense["vision"]["train_step_gmacs"]
    assert reduced["momentum"] == dense["momentum"]


@pytest.mark.parametrize("name", ["flip", "resize"])
def test_evaluation_keeps_every_token(name):
    dense = encoded("dense").states
    assert torch.equal(encoded(name).states, dense)
    assert encoded(name, training=True).states.shape[1] < dense.shape[1]


def test_flip_keeps_the_smallest_draws_in_their_order():
    tower = open_tower(small_vit())
    reducer = make_reducer("flip", tower.shape, settings={"mask_ratio": 0.9}).train()
    reducer.noise = torch.rand(2, 64, generator=torch.Generator().manual_seed(1))
    state = reducer.before_block(0, tower.open(IMAGES).traced(), tower, None)
    assert state.patches == 64  # no sample keys: nothing is drawn
    trace = Trace(origins_wanted=True)
    with torch.no_grad():
        encode(tower, reducer, IMAGES, None, trace)
    for row in range(2):
        kept = reducer.noise[row].argsort()[:6]
        assert trace.origins[0][row][kept].tolist() == [0, 1, 2, 3, 4, 5]


def test_flip_draws_by_seed_and_image():
    one, again, other = (encoded("flip", training=True, seed=seed).states for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_downsample_is_the_tower_on_a_smaller_image():
    """timm's own dynamic image size on the resized image gives the same tokens."""
    vit = small_vit()
    dynamic = small_vit(dynamic_img_size=True)
    dynamic.load_state_dict(vit.state_dict())
    tokens = encoded("downsample", keep=0.25).states
    with torch.no_grad():
        smaller = F.interpolate(IMAGES, size=(32, 32), mode="bicubic", antialias=True)
        assert torch.equal(tokens, dynamic.forward_features(smaller))
    assert tokens.shape[1] == 17


def test_half_precision_is_resized_too():
    tower = open_tower(small_vit().bfloat16())
    reducer = make_reducer("downsample", tower.shape, settings={"keep": 0.25})
    assert encode(tower, reducer, IMAGES.bfloat16()).states.dtype == torch.bfloat16


def test_downsample_costs_what_the_smaller_image_costs():
    cost = cost_report("deit_small_patch16_224", "downsample", settings={"keep": 0.25})
    smaller = cost_report("deit_small_patch16_224", "dense", image_size=112)
    assert cost["forward"]["total_gmacs"] == smaller["forward"]["total_gmacs"]
    assert cost["ratio"] == 0.25


@pytest.mark.parametrize("kind", [(CLIPVisionModel, CLIPVisionConfig), (BlipVisionModel, BlipVisionConfig)])
def test_transformers_towers_interpolate_as_they_do_themselves(kind):
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
    model = kind[0](kind[1](**sizes, image_size=64, patch_size=8)).double().eval()
    tower = open_tower(model)
    reducer = make_reducer("downsample", tower.shape, settings={"keep": 0.25})
    smaller = F.interpolate(IMAGES, size=(32, 32), mode="bicubic", antialias=True)
    with torch.no_grad():
        own = model(smaller, interpolate_pos_encoding=True).last_hidden_state
        assert torch.allclose(encode(tower, reducer, IMAGES).states, own, atol=1e-12)


def test_each_patch_lives_in_the_smaller_image():
    assert patches_in((4, 4), (2, 2), torch.device("cpu")).tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
    trace = Trace(origins_wanted=True)
    encoded("downsample", trace, keep=0.25)
    assert trace.origins[0].shape == (2, 64)
    assert int(trace.origins[0].max()) == 15


def test_the_nearest_grid_is_taken_and_stretches_little():
    assert smaller_grid((8, 8), 0.25) == (4, 4)
    assert smaller_grid((16, 16), 0.7) == (12, 15)
    assert smaller_grid((8, 8), 0.5) == (5, 6)
    assert smaller_grid((14, 14), 1.0) == (14, 14)
    reducer = make_reducer("downsample", open_tower(small_vit()).shape, ratio=0.7)
    assert realised_ratio(reducer) == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("name", ["pool", "downsample", "resize"])
def test_a_tower_without_a_grid_is_refused(name):
    with pytest.raises(HarnessError, match=f"method {name} needs a grid of patches"):
        make_reducer(name, StackShape(2, 10, 1, 8, True))


@pytest.mark.parametrize(
    ("name", "settings"), [("pool", {"keep": 0}), ("downsample", {"keep": 1.2}), ("flip", {"mask_ratio": 1})]
)
def test_bad_settings_are_refused_in_one_line(name, settings):
    with pytest.raises(HarnessError, match=next(iter(settings))) as refusal:
        make_reducer(name, open_tower(small_vit()).shape, settings=settings)
    assert "\n" not in str(refusal.value)
