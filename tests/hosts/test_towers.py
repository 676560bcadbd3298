"""Opened towers are the models they were opened from, and models that cannot be opened are refused by name."""

import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelScalingBlock, ResPostBlock, VisionTransformer
from transformers import BlipVisionConfig, BlipVisionModel, CLIPVisionConfig, CLIPVisionModel

from harness.check.method import small_vit
from harness.hosts.parts.towers import open_tower
from harness.hosts.reduced import reduce
from harness.kit.errors import HarnessError
from harness.reduction import TokenState, encode
from harness.reduction.budget import make_reducer
from harness.reduction.kernels import attention_path

SMALL = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "image_size": 64,
    "patch_size": 8,
}
VITS = {
    "plain": {},
    "registers": {"reg_tokens": 4},
    "layer scale": {"init_values": 0.1},
    "qk norm": {"qk_norm": True},
    "average pooling": {"class_token": False, "global_pool": "avg"},
    "pre-norm": {"pre_norm": True},
    "no bias": {"qkv_bias": False},
    "head": {"num_classes": 5},
}


def transformers_models():
    torch.manual_seed(0)
    return [
        CLIPVisionModel(CLIPVisionConfig(**SMALL)),
        CLIPVisionModel(CLIPVisionConfig(**SMALL, hidden_act="gelu")),
        BlipVisionModel(BlipVisionConfig(**SMALL)),
    ]


@pytest.mark.parametrize("kind", VITS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("path", ["fused", "math"])
def test_timm_towers_equal_their_models(kind, dtype, tolerance, path):
    model = small_vit(**VITS[kind]).to(dtype)
    images = torch.randn(2, 3, 64, 64, dtype=dtype)
    with torch.no_grad(), attention_path(path):
        expected = model(images)
        # Of the largest value, whose last digits sums in another order may change.
        assert (reduce(model, "dense")(images) - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_transformers_towers_equal_their_models(index, dtype, tolerance):
    model = transformers_models()[index].to(dtype).eval()
    images = torch.randn(2, 3, 64, 64, dtype=dtype)
    with torch.no_grad():
        ours, theirs = reduce(model, "dense")(images), model(images)
    assert (ours.last_hidden_state - theirs.last_hidden_state).abs().max() <= tolerance
    assert (ours.pooler_output - theirs.pooler_output).abs().max() <= tolerance


def test_a_distilled_deit_protects_both_its_tokens():
    model = timm.create_model("deit_tiny_distilled_patch16_224", depth=2).eval()
    tower = open_tower(model)
    assert (tower.shape.prefix, tower.shape.patches) == (2, 196)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(reduce(model, "dense")(images), model(images))
        assert reduce(model, "tome", r=4).forward_features(images).shape[1] == 198 - 8


@pytest.mark.parametrize("wants", ["cls_attention", "keys", "attention_received", "value_norms"])
def test_observing_a_block_shows_what_attending_to_it_shows(wants):
    for model in [
        small_vit(),
        small_vit(qk_norm=True),
        *(model.double().eval() for model in transformers_models()),
    ]:
        tower = open_tower(model)
        state = TokenState(torch.randn(2, 65, 24, dtype=torch.float64))
        with torch.no_grad():
            _, attended = tower.attend(1, state, frozenset({wants}))
            observed = tower.observe(1, state, frozenset({wants}))
        assert (getattr(attended, wants) - getattr(observed, wants)).abs().max() < 1e-12


def test_cls_attention_is_a_row_of_the_attention_map():
    model = small_vit()
    tower = open_tower(model)
    state = TokenState(torch.randn(2, 65, 24, dtype=torch.float64))
    q, k, _ = tower.queries_keys_values(0, state.tokens)
    full = (q @ k.transpose(-2, -1) * 8**-0.5).softmax(-1)
    seen = tower.observe(0, state, frozenset({"cls_attention", "attention_received"}))
    assert torch.allclose(seen.cls_attention, full[:, :, 0, 1:].mean(1), atol=1e-14)
    assert torch.allclose(seen.attention_received, full.mean((1, 2)), atol=1e-14)


def test_proportional_attention_equals_repeated_tokens():
    """A token of size 2 attends and is attended to as two equal tokens would be."""
    tower = open_tower(small_vit())
    tome = make_reducer("tome", tower.shape)
    tokens = torch.randn(1, 5, 24, dtype=torch.float64)
    sizes = torch.tensor([[1.0, 1, 2, 1, 1]], dtype=torch.float64)
    for path in ("fused", "math"):
        with torch.no_grad(), attention_path(path):
            sized, _ = tower.attend(0, TokenState(tokens, sizes=sizes), frozenset(), tome)
            repeated, _ = tower.attend(0, TokenState(tokens[:, [0, 1, 2, 2, 3, 4]]), frozenset())
        assert torch.allclose(sized.tokens, repeated.tokens[:, [0, 1, 2, 4, 5]], atol=1e-12)


@pytest.mark.parametrize("block", [ParallelScalingBlock, ResPostBlock])
def test_other_blocks_are_refused_by_name(block):
    model = VisionTransformer(img_size=64, patch_size=8, embed_dim=24, depth=2, num_heads=3, block_fn=block)
    with pytest.raises(HarnessError, match=block.__name__):
        open_tower(model)


def test_other_models_are_refused_by_name():
    with pytest.raises(HarnessError, match="Linear is not a tower"):
        open_tower(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("method", ["elip", "evit"])
def test_methods_that_need_a_class_token_are_refused_without_one(method):
    with pytest.raises(HarnessError, match=f"method {method} needs a class token"):
        reduce(small_vit(class_token=False, global_pool="avg"), method)


def test_reduce_leaves_the_model_as_it_was():
    model = small_vit(num_classes=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reduced = reduce(model, "tome", ratio=0.7)
    reduced(torch.randn(2, 3, 64, 64, dtype=torch.float64)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_elip_runs_no_full_attention_in_the_last_look_ahead_block():
    """The observed block projects one query and the keys: its output projection and MLP never run ahead."""
    model = small_vit()
    ran = []
    for number, block in enumerate(model.blocks):
        block.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
    tower = open_tower(model)
    reducer = make_reducer("elip", tower.shape)
    from harness.reduction import Guide

    with torch.no_grad():
        encode(
            tower,
            reducer,
            torch.randn(1, 3, 64, 64, dtype=torch.float64),
            Guide(torch.randn(1, 24, dtype=torch.float64)),
        )
    # Dense runs each once; ahead of blocks 2, 4 and 10 run 2; 4..8; 10.
    assert sorted(ran) == sorted([*range(12), 2, 4, 5, 6, 7, 8, 10])
