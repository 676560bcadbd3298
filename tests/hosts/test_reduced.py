"""`harness.reduce`: other image sizes, gradient checkpointing, guides, and one budget only."""

import copy

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import harness
from harness.hosts.parts.towers import open_tower
from harness.hosts.reduced_vit import ReducedModel
from harness.kit.errors import HarnessError
from harness.reduction import MethodConfig, TokenReducer, Trace, bipartite, encode


def vit(**options):
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", img_size=96, depth=6, **options).eval()


SCHEDULES = {"elip": "begin=1,3,4 keep=.9,.7,.5 lookahead=1,1,1", "evit": "begin=1,3 keep=.8,.6", "tome": None}


@pytest.mark.parametrize("method", SCHEDULES)
@pytest.mark.parametrize("size", [(96, 96), (160, 160), (64, 96), (32, 32)])
def test_the_ratio_is_of_the_tokens_that_are_there(method, size):
    reduced = harness.reduce(vit(dynamic_img_size=True), method, ratio=0.7, schedule=SCHEDULES[method])
    images = torch.randn(2, 3, *size)
    guide = harness.Guide(torch.randn(2, 192)) if method == "elip" else None
    count = size[0] // 16 * (size[1] // 16)
    if count < 16:
        with pytest.raises(HarnessError, match=r"is not reachable|keeps more tokens"):
            reduced(images, guide)
        return
    trace = Trace()
    reducer = reduced._fitting(reduced.tower.sized_for(images))
    with torch.no_grad():
        reduced(images, guide)
        encode(reduced.tower, reducer, images, guide, trace)
    assert sum(kept - 1 for kept in trace.mlp) / 6 / count == pytest.approx(0.7, abs=0.02)
    assert max(trace.mlp) <= count + 1


def test_images_of_another_size_are_refused_where_the_method_was_made_for_one():
    reduced = harness.reduce(vit(dynamic_img_size=True), "tome", r=2)
    with pytest.raises(HarnessError, match="was made for 36 patches and got 100"):
        encode(reduced.tower, reduced.reducer, torch.randn(1, 3, 160, 160))


def test_gradient_checkpointing_of_the_model_is_honoured():
    def mlp_passes(model, blocks):
        passes = []
        hooks = [block.mlp.register_forward_pre_hook(lambda *_: passes.append(1)) for block in blocks]
        model(torch.randn(2, 3, 96, 96)).sum().backward()
        for hook in hooks:
            hook.remove()
        return len(passes)

    model = vit().train()
    plain = harness.reduce(model, "tome", r=2)
    model.set_grad_checkpointing(True)
    saving = harness.reduce(model, "tome", r=2)
    assert mlp_passes(plain, plain.model.blocks) == 6
    assert mlp_passes(saving, saving.model.blocks) == 12


def test_a_missing_guide_is_said_once_and_strict_refuses_it(capsys):
    images = torch.randn(1, 3, 96, 96)
    reduced = harness.reduce(vit(), "elip", schedule=SCHEDULES["elip"])
    with torch.no_grad():
        reduced(images)
        reduced(images)
    assert capsys.readouterr().err.count("ELIP, which a text guides, without one kept all tokens") == 1
    with pytest.raises(HarnessError, match=r"without one is refused \(strict\): call with guide=harness.Guide"):
        harness.reduce(vit(), "elip", schedule=SCHEDULES["elip"], strict=True)(images)


def test_a_guide_that_is_not_finite_is_refused():
    images, states = torch.randn(1, 3, 96, 96), torch.randn(1, 4, 192)
    reduced = harness.reduce(vit(), "elip", schedule=SCHEDULES["elip"])
    for value in (torch.nan, torch.inf):
        with pytest.raises(HarnessError, match="guide with NaN or infinite values"):
            reduced(images, guide=harness.Guide(torch.full((1, 192), value)))
    states[:, 2:] = torch.nan
    padding = torch.tensor([[True, True, False, False]])
    reduced(images, guide=harness.Guide(torch.randn(1, 192), states, padding))
    sound = torch.randn(1, 192)
    for broken in (
        harness.Guide(sound, states, torch.ones_like(padding)),
        harness.Guide(sound, feature=torch.full((1, 8), torch.nan)),
        harness.Guide(sound, image_attention=torch.full((1, 36), torch.inf)),
    ):
        with pytest.raises(HarnessError, match="guide with NaN or infinite values"):
            reduced(images, guide=broken)
    with pytest.raises(
        HarnessError, match=r"text_mask of \(1, 3\) for text_states of \(1, 4, 192\): give one per token"
    ):
        reduced(images, guide=harness.Guide(sound, states, padding[:, :3]))


def test_a_guided_model_is_traced_and_compiled_without_looking_at_values():
    images, text = torch.randn(2, 3, 96, 96), torch.randn(2, 192)
    reduced = harness.reduce(vit(), "elip", schedule=SCHEDULES["elip"])
    with torch.no_grad():
        plain = reduced(images, guide=harness.Guide(text))
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = reduced(mode.from_tensor(images), guide=harness.Guide(mode.from_tensor(text)))
        assert fake.shape == plain.shape
        each = torch.func.vmap(lambda image, own: reduced(image[None], guide=harness.Guide(own[None]))[0])
        torch.testing.assert_close(each(images, text), plain, atol=1e-5, rtol=1e-4)
        compiled = torch.compile(reduced, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(images, guide=harness.Guide(text)), plain)


@pytest.mark.parametrize(("keeps", "said"), [(True, "kept all tokens:"), (False, "kept at most 33 of 37 tokens:")])
def test_a_guided_method_that_says_nothing_of_its_fallback_is_told_by_what_it_kept(keeps, said, capsys):
    class Quiet(TokenReducer[MethodConfig]):
        needs_text = True

        def before_block(self, block, state, stack, guide):
            if block or (keeps and guide is None):
                return state
            return state.keep(torch.arange(32).expand(len(state.tokens), -1))

    model = vit()
    reduced = ReducedModel(model, Quiet(MethodConfig(), open_tower(model).shape))
    with torch.no_grad():
        reduced(torch.randn(1, 3, 96, 96))
    assert said in capsys.readouterr().err


def test_a_method_that_learns_is_said_to_be_as_it_was_drawn(capsys):
    harness.reduce(vit(), "dynamicvit", schedule="begin=1,3 keep=.8,.6")
    assert "method dynamicvit learns, and is as it was drawn: train it, or load what it" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["downsample", "pool", "resize"])
@pytest.mark.parametrize("size", [(160, 160), (64, 144)])
def test_methods_that_go_by_rows_and_columns_take_those_of_the_images(method, size):
    """64 x 144 pixels have as many patches as the model's own 96 x 96, in another grid."""
    reduced = harness.reduce(vit(dynamic_img_size=True), method, ratio=0.25)
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        left = reduced.forward_features(images).shape[1]
    assert reduced._fitting(reduced.tower.sized_for(images)).shape.grid == (size[0] // 16, size[1] // 16)
    assert left - 1 == pytest.approx(size[0] * size[1] / 256 / 4, abs=3)


def test_few_tokens_are_too_few_to_match_and_none_is_merged():
    found = bipartite(torch.randn(2, 1, 4), 0, 0)
    assert [part.shape for part in found] == [(2, 0), (2, 0), (2, 1)]
    deep = timm.create_model("vit_tiny_patch16_224", img_size=96).eval()
    with pytest.raises(HarnessError, match=r"ratio 0\.7 is not reachable: the nearest is"):
        harness.reduce(deep, "bat", ratio=0.7)


def test_evit_compiles_once_for_all_batch_sizes():
    graphs = []

    def counted(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    reduced = harness.reduce(vit(), "evit", ratio=0.7, schedule=SCHEDULES["evit"])
    compiled = torch.compile(reduced, backend=counted, dynamic=True, fullgraph=True)
    with torch.no_grad():
        for count in (2, 3, 7):
            images = torch.randn(count, 3, 96, 96)
            assert torch.allclose(compiled(images), reduced(images), atol=1e-5)
    assert len(graphs) == 1


def test_another_model_in_its_place_and_copies_are_opened_anew():
    reduced = harness.reduce(vit(), "tome", r=2)
    images = torch.randn(1, 3, 96, 96)
    twin = copy.deepcopy(reduced)
    with torch.no_grad():
        before = reduced(images)
        for parameter in reduced.model.parameters():
            parameter.zero_()
        assert torch.equal(twin(images), before)
        assert not torch.equal(reduced(images), before)
        reduced.model = twin.model
        assert torch.equal(reduced(images), before)


def test_a_guide_of_another_width_is_one_line():
    reduced = harness.reduce(vit(), "elip", schedule=SCHEDULES["elip"])
    with pytest.raises(HarnessError, match="guide of width 768: expected the tower's, 192"):
        reduced(torch.randn(1, 3, 96, 96), harness.Guide(torch.randn(1, 768)))


def test_what_is_no_batch_of_images_with_a_text_each_is_one_line():
    reduced = harness.reduce(vit(), "elip", schedule=SCHEDULES["elip"])
    with pytest.raises(HarnessError, match="guide of 3 texts for 2 images: give one for each"):
        reduced(torch.randn(2, 3, 96, 96), harness.Guide(torch.randn(3, 192)))
    with pytest.raises(HarnessError, match=r"images of torch\.uint8: expected floats"):
        reduced(torch.zeros(2, 3, 96, 96, dtype=torch.uint8))
    with pytest.raises(HarnessError, match=r"'vit' is no torch\.nn\.Module: give the ViT itself"):
        harness.reduce("vit", "tome", ratio=0.7)


def test_a_setting_and_a_ratio_do_not_both_set_the_budget():
    with pytest.raises(HarnessError, match=r"r=8\.0 and ratio 0\.7 both set its budget"):
        harness.reduce(vit(), "tome", r=8, ratio=0.7)
    with pytest.raises(HarnessError, match=r"keep_rate=0\.5 and ratio 0\.7 both set its budget"):
        harness.reduce(vit(), "evit", keep_rate=0.5, ratio=0.7, blocks=(1, 3))


@pytest.mark.parametrize(
    ("method", "options", "line"),
    [
        ("tome", {"ratio": "0.7"}, "ratio '0.7': expected a number above 0 and at most 1"),
        ("tome", {"ratio": [0.7]}, r"ratio \[0.7\]: expected a number"),
        ("tome", {"ratio": True}, "ratio True: expected a number"),
        (None, {}, "method: a NoneType, expected a name, such as 'tome'"),
        (nn.Linear, {}, "method: a type, expected a name, such as 'tome'"),
    ],
)
def test_arguments_of_other_types_are_one_line(method, options, line):
    with pytest.raises(HarnessError, match=line):
        harness.reduce(vit(), method, **options)


def test_a_ratio_of_numpy_or_torch_is_a_number():
    images, ratios = torch.randn(1, 3, 96, 96), (0.75, np.float32(0.75), torch.tensor(0.75))
    whole, *others = (harness.reduce(vit(), "tome", ratio=ratio)(images) for ratio in ratios)
    assert all(torch.equal(whole, other) for other in others)


@pytest.mark.parametrize(
    ("given", "guide", "line"),
    [
        (np.zeros((1, 3, 96, 96), np.float32), None, "images: a ndarray, expected a torch.Tensor"),
        ([torch.zeros(1, 3, 96, 96)], None, "images: a list, expected a torch.Tensor"),
        (torch.zeros(0, 3, 96, 96), None, "images: a batch of none; give one or more"),
        (torch.zeros(2, 3, 96, 96), torch.zeros(2, 192), r"guide: a Tensor, expected harness.Guide\(text_cls\)"),
        (torch.zeros(2, 3, 96, 96), "a dog", "guide: a str, expected harness.Guide"),
    ],
)
def test_images_and_guides_of_other_types_are_one_line(given, guide, line):
    with pytest.raises(HarnessError, match=line):
        harness.reduce(vit(), "elip", schedule=SCHEDULES["elip"])(given, guide)


def test_images_of_nan_give_nan_or_one_line_and_no_index_beyond_the_tokens():
    nan = torch.full((2, 3, 96, 96), float("nan"))
    assert harness.reduce(vit(), "ats")(nan).isnan().any()
    with pytest.raises(HarnessError, match="method atc: keys with NaN or infinite values"):
        harness.reduce(vit(), "atc", schedule="begin=1 keep=.5")(nan)
