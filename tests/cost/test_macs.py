"""The MAC counter against closed forms, a second counter, a second rule for gradients, and other paths."""

from functools import partial

import pytest
import timm
import torch
from fvcore.nn import FlopCountAnalysis
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F
from transformers import BlipVisionConfig, BlipVisionModel, CLIPVisionConfig, CLIPVisionModel

from harness.cost.adaptive import mean_macs
from harness.cost.budget import macs_ratio, module_macs, reducer_at_macs, spent, tower_macs
from harness.cost.flops import RULES, Counts, MacCounter, count, operator_name
from harness.cost.probe import skeleton, tower_call, tower_inputs
from harness.hosts.parts.towers import open_tower
from harness.hosts.reduced_vit import ReducedModel
from harness.kit.errors import HarnessError
from harness.reduction import Trace, phase
from harness.reduction.budget import make_reducer, realised_ratio
from harness.reduction.kernels import attention_path
from harness.reduction.plan import Sample

METHODS = {
    "dense": ("dense", {}),
    "elip": ("elip", {"schedule": "begin=1,2 keep=.8,.5"}),
    "evit": ("evit", {"settings": {"blocks": [1, 2], "keep_rate": 0.6}}),
    "evit_dropped": ("evit", {"settings": {"blocks": [1, 2], "keep_rate": 0.6, "fuse": False}}),
    "random": ("random", {"schedule": "begin=1,2 keep=.8,.5"}),
    "tome": ("tome", {"settings": {"r": 2}}),
}
DEVICES = ["meta", "cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def small_vit(**changes):
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3, "num_classes": 10}
    return VisionTransformer(**{**sizes, **changes}).eval()


def reducer_for(case, model):
    name, options = METHODS[case]
    return make_reducer(name, open_tower(model).shape, **options)


def formula(model, attention, mlp):
    """(patch embedding, blocks and head): MACs of a ViT from the tokens entering attentions and MLPs."""
    width, kernel = model.embed_dim, model.patch_embed.proj.weight[0].numel()
    embedding = model.patch_embed.num_patches * width * kernel
    blocks = sum(4 * n * width**2 + 2 * n**2 * width for n in attention) + sum(8 * m * width**2 for m in mlp)
    return embedding, blocks + width * model.num_classes


@pytest.mark.parametrize("case", METHODS)
def test_main_macs_equal_the_closed_form(case):
    model = small_vit()
    trace = Trace()
    counts = tower_macs(model, reducer_for(case, model), trace=trace)
    embedding, rest = formula(model, trace.attention, trace.mlp)
    assert counts.forward["main"] == embedding + rest
    assert counts.train_step["main"] == 2 * embedding + 3 * rest


@pytest.mark.parametrize("case", METHODS)
@pytest.mark.parametrize("path", ["fused", "math"])
@pytest.mark.parametrize("device", DEVICES)
def test_counts_are_the_same_on_any_device_and_attention_path(case, path, device):
    model = small_vit()
    reducer = reducer_for(case, model)
    reference = tower_macs(model, reducer)
    with attention_path(path):
        counts = tower_macs(model, reducer, device=device)
    assert (counts.forward, counts.train_step) == (reference.forward, reference.train_step)
    assert bool(counts.attention) == (path == "fused" and device != "meta")


@pytest.mark.parametrize("case", METHODS)
@pytest.mark.parametrize("grad", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_forward_counts_do_not_depend_on_gradients(case, grad):
    model = small_vit()
    reducer = reducer_for(case, model)
    images, guide = tower_inputs(model, reducer, 1, "cpu", torch.float32)
    with grad():
        counts = count(tower_call(model, reducer, images, guide), train_step=False)
    assert counts.forward == tower_macs(model, reducer).forward


class ContractCounter(MacCounter):
    """The contract's words: each forward product once more for each input that needs a gradient."""

    def __init__(self):
        super().__init__()
        self.gradients = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = sum(self.macs.values())
        out = super().__torch_dispatch__(func, types, args, kwargs)
        name = operator_name(func)
        if name in RULES and torch.is_grad_enabled():
            factors = args[1:3] if name.startswith("addmm") else args[:2]
            needing = 2 if "attention" in name else sum(tensor.requires_grad for tensor in factors)
            self.gradients += needing * (sum(self.macs.values()) - before)
        return out


@pytest.mark.parametrize("case", METHODS)
def test_the_real_backward_pass_costs_what_the_contract_says(case):
    model = small_vit()
    reducer = reducer_for(case, model)
    images, guide = tower_inputs(model, reducer, 1, "cpu", torch.float32)
    counter = ContractCounter()
    with counter:
        tower_call(model, reducer, images, guide)()
    real = tower_macs(model, reducer)
    # A score that only ranks tokens (EViT without fusing) has no path to the loss and no gradient.
    unused = 2 * real.forward["scoring"] if case == "evit_dropped" else 0
    assert real.train_step_total == sum(counter.macs.values()) + counter.gradients - unused


def test_gradients_count_in_the_phase_of_their_product():
    left, right = (torch.ones(2, 3, requires_grad=True), torch.ones(3, 5, requires_grad=True))

    def call():
        plain = left @ right
        with phase("predictor"):
            return plain @ torch.ones(5, 7)

    counts = count(call)
    assert counts.forward == {"main": 30, "predictor": 70}
    assert counts.train_step == {"main": 90, "predictor": 140}


@pytest.mark.parametrize("case", ["dense", "evit", "elip"])
def test_fvcore_agrees_once_it_sees_fused_attention(case):
    model = small_vit()
    reducer = reducer_for(case, model)
    images, guide = tower_inputs(model, reducer, 1, "cpu", torch.float32)

    class Called(nn.Module):
        def __init__(self):
            super().__init__()
            self.reduced = ReducedModel(model, reducer)

        def forward(self, pixels):
            return self.reduced(pixels, guide)

    def attention(inputs, outputs):
        q, k = (value.type().sizes() for value in inputs[:2])
        return 2 * q[0] * q[1] * q[2] * k[2] * q[3]

    analysis = FlopCountAnalysis(Called().eval(), images)
    analysis.set_op_handle("aten::scaled_dot_product_attention", attention)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    norms = analysis.by_operator()["layer_norm"]
    assert analysis.total() - norms == tower_macs(model, reducer).forward_total


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolutions(groups, transposed):
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(4, 6, 3, stride=2, groups=groups, device="meta")
    pixels = torch.empty(1, 4, 9, 9, device="meta", requires_grad=True)
    result = layer(pixels)
    places = (pixels if transposed else result)[0, 0].numel()
    expected = places * 4 * 6 * 9 // groups
    counts = count(lambda: layer(pixels))
    assert (counts.forward_total, counts.train_step_total) == (expected, 3 * expected)


def test_attention_between_two_sequences_counts_its_own_lengths():
    q, k, v = (torch.ones(1, 2, tokens, 8, requires_grad=True) for tokens in (3, 5, 5))
    counts = count(lambda: F.scaled_dot_product_attention(q, k, v))
    assert (counts.forward_total, counts.train_step_total) == (2 * 2 * 3 * 5 * 8, 6 * 2 * 3 * 5 * 8)


def test_a_product_that_cannot_be_counted_is_refused():
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    tokens = torch.ones(1, 3, 8)
    with torch.no_grad(), pytest.raises(HarnessError, match="_native_multi_head_attention"):
        count(lambda: layer(tokens, tokens, tokens, need_weights=False), train_step=False)


@pytest.mark.parametrize("vision", ["clip", "blip"])
def test_towers_of_transformers(vision):
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
    }
    model = (
        CLIPVisionModel(CLIPVisionConfig(**sizes)) if vision == "clip" else BlipVisionModel(BlipVisionConfig(**sizes))
    )
    reducer = make_reducer("elip", open_tower(model).shape, schedule="begin=1 keep=.5")
    counts = tower_macs(model, reducer)
    blocks = sum(4 * n * 32**2 + 2 * n**2 * 32 + 2 * n * 32 * 64 for n in (17, 10, 10))
    assert counts.forward["main"] == 16 * 3 * 64 * 32 + blocks
    assert counts.forward["scoring"] > 0 == counts.train_step["scoring"] - counts.forward["scoring"]


def test_a_skeleton_has_no_data_and_leaves_the_model_alone():
    model = small_vit()
    copy = skeleton(model)
    assert all(parameter.is_meta for parameter in copy.parameters())
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert tower_macs(copy, reducer_for("dense", model)) == tower_macs(model, reducer_for("dense", model))
    assert all(parameter.grad is None for parameter in model.parameters())


def test_totals_are_the_sums_of_all_phases():
    forward = {"main": 400, "scoring": 30, "matching": 2, "predictor": 1}
    found = Counts(forward, {name: 3 * count for name, count in forward.items()}, {}).gmacs()
    assert found["forward"]["total_gmacs"] == pytest.approx(433 / 1e9)
    assert found["train_step"]["total_gmacs"] == pytest.approx(3 * 433 / 1e9)


def test_any_module_can_be_counted():
    layer = nn.Linear(6, 5)
    counts = module_macs(layer, lambda copy, device: copy(torch.empty(2, 6, device=device, requires_grad=True)))
    assert (counts.forward_total, counts.train_step_total) == (60, 180)


@pytest.mark.parametrize("method", ["elip", "evit", "random", "tome"])
def test_a_budget_in_macs_is_met(method):
    model = small_vit()
    name, options = METHODS[method]
    reducer = reducer_at_macs(name, model, 0.8, **options)
    assert macs_ratio(model, reducer) == pytest.approx(0.8, abs=0.01)
    # ELIP pays for its scoring with tokens.
    assert (realised_ratio(reducer) < 0.65) == (method == "elip")


@pytest.mark.parametrize("method", ["elip", "evit", "random", "tome"])
def test_a_budget_in_macs_of_a_training_step_is_met(method):
    model = small_vit()
    name, options = METHODS[method]
    reducer = reducer_at_macs(name, model, 0.8, **options, match="train-macs")
    step = tower_macs(model, reducer).train_step_total / tower_macs(model, reducer_for("dense", model)).train_step_total
    assert step == pytest.approx(0.8, abs=0.01)
    # Scoring has no backward pass: compared with dense, a step of ELIP's costs less than its forward pass.
    assert (macs_ratio(model, reducer) > 0.85) == (method == "elip")


def test_a_budget_in_macs_of_an_adaptive_method_is_of_images():
    model = small_vit().eval()
    with pytest.raises(HarnessError, match="adaptive: its MACs are measured on images"):
        reducer_at_macs("ats", model, 0.8, "begin=1,2 keep=.8,.5")
    torch.manual_seed(0)
    sample = Sample(torch.randn(4, 3, 32, 32))
    for match in ("macs", "train-macs"):
        counted = partial(mean_macs, model, sample=sample, train_step=True)
        reducer = reducer_at_macs("ats", model, 0.8, "begin=1,2 keep=.8,.5", match=match, counted=counted)
        dense = spent(tower_macs(model, reducer_for("dense", model)), match)
        assert spent(counted(reducer), match) / dense == pytest.approx(0.8, abs=type(reducer).tolerance)


def test_a_budget_out_of_reach_names_the_range():
    with pytest.raises(HarnessError, match=r"MACs ratio 0.1 is not reachable.* reach 0\.\d+ to 1\.\d+"):
        reducer_at_macs("elip", small_vit(), 0.1, "begin=1,2 keep=.8,.5")
    assert realised_ratio(reducer_at_macs("elip", small_vit(), 1.0, "begin=1,2 keep=.8,.5")) == 1


def test_elip_at_the_papers_schedule_costs_what_exact_execution_can():
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224", img_size=256)
    trace = Trace()
    counts = tower_macs(model, make_reducer("elip", open_tower(model).shape), trace=trace)
    dense = tower_macs(model, make_reducer("dense", open_tower(model).shape))
    assert trace.attention == [257] * 2 + [232] * 2 + [168] * 6 + [104] * 2
    # facts/published_figures.yaml, exact_vit_base_256; issue 2 asks for at most 28.6 and 0.885.
    assert counts.forward_total / 1e9 == pytest.approx(28.508, rel=1e-3)
    assert dense.forward_total / 1e9 == pytest.approx(23.197, rel=1e-3)
    assert dense.train_step_total / 1e9 == pytest.approx(69.44, rel=1e-3)
    assert counts.train_step_total / dense.train_step_total <= 0.885
    assert counts.train_step["scoring"] == counts.forward["scoring"]
