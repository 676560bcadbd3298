"""A-CLIP's mask as a method: the golden's blocks, given the attention of a momentum tower, in training alone."""

import json

import pytest
import torch
from safetensors import safe_open

from harness.check.method import small_vit
from harness.cost.budget import tower_macs
from harness.cost.host import NO_WORDS, host_parts
from harness.cost.report import cost_report
from harness.cost.vits import build_vit
from harness.hosts.build import build_host
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.objectives import choose, choose_downstream
from harness.objectives.parts.objective import Moment, Pairs
from harness.objectives.parts.recipe import recipe_of
from harness.reduction import Guide, StackShape, TokenState, Trace, encode
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts
from tests.test_rooms import ROOT

IMAGES = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
ATTENTION = torch.rand(2, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
GUIDE = Guide(torch.zeros(2, 24, dtype=torch.float64), image_attention=ATTENTION)
SIZES = {"image_size": 32, "width": 24, "depth": 3, "heads": 3, "text_layers": 1, "projection": 12}


def encoded(training=True, guide=GUIDE, trace=None, **settings):
    tower = open_tower(small_vit())
    reducer = make_reducer("aclip", tower.shape, settings=settings).train(training)
    with torch.no_grad():
        return encode(tower, reducer, IMAGES, guide, trace)


@pytest.mark.parametrize("view", [0, 1])
def test_it_keeps_the_patches_that_the_released_program_keeps(view):
    """tests/goldens/aclip_mask: what falls on a view of the momentum tower's attention, and what is removed."""
    with safe_open(ROOT / "tests" / "goldens" / "aclip_mask.safetensors", "pt") as golden:
        keep = json.loads(golden.metadata()["config"])["ratio"]
        attention = golden.get_tensor(f"output.view_attention_{view}")
        removed = golden.get_tensor(f"output.removed_{view}").bool()
    shape = StackShape(depth=1, patches=196, prefix=1, width=2, class_token=True, grid=(14, 14))
    method = make_reducer("aclip", shape, settings={"keep": keep}).train()
    state = TokenState(torch.zeros(len(attention), 197, 2, dtype=attention.dtype)).traced()
    guide = Guide(torch.zeros(len(attention), 2), image_attention=attention)
    left = method.before_block(0, state, None, guide)
    assert torch.equal(left.origin < 0, removed)
    assert left.patches == 100


def test_published_count_and_what_the_masked_forward_costs():
    """100 of 196 patches (int(49 * .5) + 1 blocks of four; microsoft/A-CLIP): 12 blocks of 101 tokens."""
    model = build_vit("vit_base_patch16_224")
    method = make_reducer("aclip", open_tower(model).shape)
    assert token_counts(method).mlp == [101] * 12
    assert token_counts(method).attention == [101] * 12
    cost = cost_report("vit_base_patch16_224", "aclip")
    assert cost["forward"]["total_gmacs"] == cost["dense"]["forward_gmacs"]
    assert cost["train_step"]["total_gmacs"] == pytest.approx(0.505 * cost["dense"]["train_step_gmacs"], rel=1e-3)
    assert cost["train_step"].get("scoring_gmacs", 0) == 0
    assert sum(tower_macs(model, method, train_step=False).forward.values()) / 1e9 == pytest.approx(17.564, rel=1e-3)


def test_evaluation_keeps_every_token_and_a_keep_of_1_is_dense():
    dense = encode(tower := open_tower(small_vit()), make_reducer("dense", tower.shape), IMAGES).states
    assert torch.equal(encoded(training=False).states, dense)
    assert torch.equal(encoded(training=False, guide=None).states, dense)
    assert torch.equal(encoded(keep=1.0).states, dense)
    assert torch.equal(encode(tower, make_reducer("aclip", tower.shape, ratio=1.0).train(), IMAGES).states, dense)


def test_it_keeps_the_blocks_of_most_attention():
    trace = Trace(origins_wanted=True)
    assert encoded(keep=0.25, trace=trace).states.shape[1] == 1 + 4 * 5
    blocks = ATTENTION.unflatten(1, (4, 2, 4, 2)).mean(dim=(2, 4)).flatten(1)
    for row in range(2):
        best = set(blocks[row].topk(5).indices.tolist())
        here = (trace.origins[0][row] >= 0).nonzero().flatten().tolist()
        assert {patch // 16 * 4 + patch % 8 // 2 for patch in here} == best


def objective_of(model, method="aclip", task=None):
    torch.manual_seed(0)
    sizes = SIZES | ({"fusion_layers": 1} if model == "albef-tiny" else {})
    host = build_host(model, **sizes)
    recipe = recipe_of(model, {"batch_size": 2, "queue_size": 4})
    choice = choose(model) if task is None else choose_downstream(model, task)
    return choice.make(host, make_reducer(method, host.shape), NO_WORDS, recipe).double()


@pytest.mark.parametrize("model", ["albef-tiny", "blip-tiny"])
def test_the_objective_s_momentum_tower_says_which_patches_the_student_sees(model):
    objective = objective_of(model).train()
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=generator)
    ids = torch.randint(10, 60, (2, 5), generator=generator)
    pairs = Pairs(pixels, ids, torch.ones_like(ids, dtype=torch.bool), torch.arange(2))
    seen = []

    def kept(*given, **offered):
        seen.append((encode_images(*given, **offered), offered["image_attention"]))
        return seen[-1][0]

    encode_images, objective.__dict__["encode_images"] = objective.encode_images, kept
    sum(objective(pairs, Moment()).values()).backward()
    (tokens, offered), *_ = seen
    assert tokens.states.shape[1] == 1 + 4 * 3  # int(4 * .5) + 1 of four blocks
    tower, expected = open_tower(objective.twin.model.vision), torch.zeros(2, 16, dtype=torch.float64)
    state = tower.open(pixels)
    with torch.no_grad():
        for block in range(3):
            expected += tower.observe(block, state, frozenset({"cls_attention"})).cls_attention / 3
            state = tower.feed_forward(block, tower.attend(block, state)[0])
    torch.testing.assert_close(offered, expected)
    assert objective.host.vision.patch_embed.proj.weight.grad.abs().sum() > 0


def test_the_momentum_tower_pays_only_for_rows_that_it_would_not_make_anyway():
    shape = build_host("albef-tiny").shape
    dense, reduced = (host_parts("albef-tiny", make_reducer(each, shape)) for each in ("dense", "aclip"))
    assert reduced["vision"]["train_step_gmacs"] < 0.6 * dense["vision"]["train_step_gmacs"]
    rows = 12 * 65 * 96 / 1e9  # a row of 65 keys for 96 channels, in each block
    more = reduced["momentum"]["forward_gmacs"] - dense["momentum"]["forward_gmacs"]
    assert more == pytest.approx(rows, abs=1e-6)


@pytest.mark.parametrize(
    ("model", "objective", "task"),
    [
        ("clip-tiny", None, None),
        ("albef-tiny", "aclip", None),
        ("albef-tiny", "albef+uta", None),
        ("albef-tiny", None, "vqa"),
    ],
)
def test_without_a_momentum_tower_it_is_refused_in_one_line(model, objective, task):
    choice = choose(model, objective) if task is None else choose_downstream(model, task)
    with pytest.raises(HarnessError, match="method aclip selects by the class attention of a momentum tower") as caught:
        choice.check_method("aclip")
    assert "\n" not in str(caught.value)
    choice.check_method("flip")


def test_a_reduced_model_in_training_without_such_a_tower_is_refused_in_one_line():
    with pytest.raises(HarnessError, match="there is none here; train with an objective that has one") as caught:
        encoded(guide=None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("changes", "reason"), [({"patch_size": 9, "img_size": 63}, "7 x 7 patches"), ({}, "keep")])
def test_bad_settings_are_refused_in_one_line(changes, reason):
    with pytest.raises(HarnessError, match=reason) as caught:
        make_reducer("aclip", open_tower(small_vit(**changes)).shape, settings={} if changes else {"keep": 0})
    assert "\n" not in str(caught.value)
