"""A reduced model shows what the wrapped one shows, is saved and loaded, and says what it cannot take."""

import copy
import io

import pytest
import timm
import torch
import transformers
from timm.optim import param_groups_layer_decay

import harness
from harness.kit.errors import HarnessError
from tests.hosts.small_towers import BARE, PATCHES, SIZES, WITHIN, drawn, images


@pytest.fixture(scope="module")
def vit():
    return drawn(BARE["timm ViT"])


def test_attributes_are_the_wrapped_models(vit):
    reduced = harness.reduce(vit, "tome", ratio=0.7)
    assert (reduced.num_classes, reduced.num_features, reduced.global_pool) == (5, 24, "token")
    assert reduced.get_classifier() is reduced.model.head
    theirs = drawn(BARE["ViT"])
    assert harness.reduce(theirs, "tome", ratio=0.7).config.hidden_size == 24
    assert harness.reduce(theirs, "tome", ratio=0.7).dtype == torch.float32


def test_methods_that_would_run_all_tokens_are_refused(vit):
    reduced = harness.reduce(vit, "tome", ratio=0.7)
    with pytest.raises(AttributeError, match=r"set_input_size .* call it on \.model, where all tokens are"):
        reduced.set_input_size((96, 96))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = reduced.nonsense


@pytest.mark.parametrize("family", ["timm ViT", "timm EVA-02", "timm BEiT", "timm SigLIP"])
@pytest.mark.parametrize("options", [{}, {"indices": [3, 11]}, {"indices": 2, "norm": True, "output_fmt": "NLC"}])
def test_forward_intermediates_with_all_tokens_are_timms(family, options):
    model = drawn(BARE[family])
    with torch.no_grad():
        theirs, ours = (
            each.forward_intermediates(images(), **options) for each in (model, harness.reduce(model, "dense"))
        )
    assert torch.equal(theirs[0], ours[0])
    assert len(theirs[1]) == len(ours[1])
    assert all(torch.equal(one, other) for one, other in zip(theirs[1], ours[1], strict=True))


def test_intermediates_give_every_patch_the_state_of_its_token(vit):
    merged, pruned = harness.reduce(vit, "tome", ratio=0.7), harness.reduce(vit, "topk", ratio=0.7)
    with torch.no_grad():
        last, maps = merged.forward_intermediates(images())
        _, gone = pruned.forward_intermediates(images())
        with_prefix = merged.forward_intermediates(
            images(), indices=1, return_prefix_tokens=True, intermediates_only=True
        )
    assert maps[-1].shape == (2, 24, 8, 8)
    states = maps[-1].flatten(2).transpose(1, 2)
    assert all(len(row.unique(dim=0)) == last.shape[1] - 1 for row in states)
    zeros = (gone[-1].flatten(2) == 0).all(1).sum(1)
    assert zeros.tolist() == [PATCHES + 1 - pruned.forward_features(images()).shape[1]] * 2
    assert with_prefix[0][1].shape == (2, 1, 24)


def test_intermediate_layers_by_dinos_name_are_timms(vit):
    options = {"n": [2, 11], "reshape": True, "return_prefix_tokens": True, "norm": True}
    with torch.no_grad():
        theirs = vit.get_intermediate_layers(images(), **options)
        ours = harness.reduce(vit, "tome", ratio=1.0).get_intermediate_layers(images(), **options)
        fewer = harness.reduce(vit, "tome", ratio=0.7).get_intermediate_layers(images())
    assert all(torch.equal(a, b) for one, other in zip(theirs, ours, strict=True) for a, b in zip(one, other))
    assert [layer.shape for layer in fewer] == [(2, PATCHES, 24)]
    with pytest.raises(AttributeError, match="Eva has no get_intermediate_layers"):
        harness.reduce(drawn(BARE["timm EVA-02"]), "tome").get_intermediate_layers(images())


def test_timms_groups_of_parameters_are_found_within(vit):
    reduced = harness.reduce(vit, "tome", ratio=0.7)
    assert reduced.num_classes == 5
    theirs, ours = (param_groups_layer_decay(each, 0.05, layer_decay=0.5) for each in (vit, reduced))
    assert [(g["lr_scale"], len(g["params"])) for g in theirs] == [(g["lr_scale"], len(g["params"])) for g in ours]
    assert len(ours) == 2 * 14  # twelve blocks, the head and the stem, each with and without weight decay


@pytest.mark.parametrize("family", ["CLIP", "DINOv3", "ViT classifier", "CLIP with projection", "SigLIP classifier"])
def test_what_transformers_saves_is_the_model_without_the_method(family, tmp_path):
    model = drawn({**BARE, **WITHIN}[family])
    reduced = harness.reduce(model, "tome", ratio=0.7)
    reduced.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    with torch.no_grad():
        again, before = harness.reduce(loaded, "tome", ratio=0.7)(images()), reduced(images())
    assert torch.equal(again[0], before[0])
    assert reduced.num_parameters() == model.num_parameters()


def test_a_method_that_learns_is_said_not_to_be_in_the_folder(tmp_path, capsys):
    harness.reduce(drawn(BARE["ViT"]), "patchmerger").save_pretrained(tmp_path)
    said = "warning: what the method learned is not saved with its model: save the state_dict of .reducer too"
    assert said in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("family", ["CLIP", "SigLIP", "ViT", "DINOv2", "DINOv3"])
def test_hidden_states_are_what_each_block_left(family):
    model = drawn(BARE[family])
    with torch.no_grad():
        theirs = model(images(), output_hidden_states=True).hidden_states
        ours = harness.reduce(model, "dense")(images(), output_hidden_states=True).hidden_states
        fewer = harness.reduce(model, "tome", ratio=0.7)(images(), output_hidden_states=True).hidden_states
    assert len(theirs) == len(ours) == len(fewer) == 13
    assert all(torch.equal(one, other) for one, other in zip(theirs, ours, strict=True))
    counts = [state.shape[1] for state in fewer]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] - counts[-1] > PATCHES // 3


def test_the_config_can_ask_for_hidden_states_and_plain_tuples():
    model = drawn(BARE["ViT"])
    model.config.output_hidden_states = True
    reduced = harness.reduce(model, "tome", ratio=0.7)
    with torch.no_grad():
        assert len(reduced(images()).hidden_states) == 13
        last, pooled = reduced(images(), return_dict=False, output_hidden_states=False)
    assert (last.dim(), pooled.shape) == (3, (2, 24))
    with pytest.raises(HarnessError, match="output_attentions is not taken by a reduced ViTModel"):
        reduced(images(), output_attentions=True)


def test_positions_are_interpolated_where_that_is_asked_for():
    model = drawn(BARE["CLIP"])
    larger = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        theirs = model(larger, interpolate_pos_encoding=True)
        ours = harness.reduce(model, "tome", ratio=1.0)(larger, interpolate_pos_encoding=True)
        fewer = harness.reduce(model, "tome", ratio=0.7)(larger, interpolate_pos_encoding=True)
    assert torch.equal(theirs.pooler_output, ours.pooler_output)
    assert fewer.last_hidden_state.shape[1] < 0.6 * 144


@pytest.mark.parametrize("family", ["timm ViT", "DINOv3", "open_clip", "ViT classifier"])
def test_a_reduced_model_is_saved_and_loaded(family):
    build = {**BARE, **WITHIN}[family]
    reduced = harness.reduce(drawn(build), "tome", ratio=0.7)
    torch.manual_seed(5)
    fresh = harness.reduce(build().eval(), "tome", ratio=0.7)
    fresh.load_state_dict(reduced.state_dict())

    def answer(model):
        with torch.no_grad():
            output = model(images())
        return output if isinstance(output, torch.Tensor) else output[0]

    wanted = answer(reduced)
    assert torch.equal(answer(fresh), wanted)
    assert torch.equal(answer(copy.deepcopy(reduced)), wanted)
    held = io.BytesIO()
    torch.save(reduced, held)
    held.seek(0)
    assert torch.equal(answer(torch.load(held, weights_only=False)), wanted)


@pytest.mark.parametrize("family", ["timm ViT", "timm BEiT", "CLIP", "ViT", "SigLIP", "open_clip"])
@pytest.mark.parametrize("shape", [(1, 3, 48, 48), (1, 1, 64, 64), (3, 64, 64)])
def test_images_of_a_wrong_size_are_one_line(family, shape):
    reduced = harness.reduce(drawn(BARE[family]), "tome", ratio=0.7)
    found = " x ".join(map(str, shape))
    with pytest.raises(HarnessError, match=rf"images of {found}: .+ takes B x 3 x 64 x 64; resize them") as caught:
        reduced(torch.zeros(shape))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["CLIP", "timm ViT", "open_clip"])
def test_a_guide_of_a_wrong_width_is_one_line(family):
    reduced = harness.reduce(drawn(BARE[family]), "elip", ratio=0.7)
    with pytest.raises(HarnessError, match=r"guide of width 512: expected the tower's, 24; project the text into it"):
        reduced(images(), guide=harness.Guide(torch.zeros(2, 512)))


def test_several_towers_within_a_model_are_named():
    pair = torch.nn.ModuleDict({"one": drawn(BARE["timm ViT"]), "two": drawn(BARE["timm ViT"])})
    with pytest.raises(HarnessError, match=r"ModuleDict holds several towers \(one, two\): reduce one of them"):
        harness.reduce(pair, "tome")


def test_a_bare_clip_tower_within_transformers_is_found_by_its_place():
    model = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**SIZES))
    reduced = harness.reduce(model, "tome", ratio=0.7)
    assert reduced.place == "vision_model"
    assert type(reduced.part.model).__name__.startswith("CLIPVision")
    assert timm.is_model("vit_tiny_patch16_224")
