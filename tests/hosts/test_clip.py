"""Facts about CLIP: what a text token reads, where it is pooled, and that other programs' files mean the same here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

import harness
from harness.hosts.build import build_host
from harness.hosts.clip.model import Clip, ClipConfig
from harness.hosts.parts import attention
from harness.hosts.parts.tokenizer import TextTokenizer
from harness.hosts.parts.towers import open_tower
from harness.hosts.weights.released import LoadReport, load_released
from harness.kit.errors import HarnessError
from harness.reduction import encode, kernels, stack
from harness.reduction.budget import make_reducer

STAGES = "begin=1,2 keep=0.65,0.4"
TEXTS = ("a red ring at top left", "what color is the moon at bottom right?", "yes")
SIZES: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "width": 24,
    "depth": 3,
    "heads": 3,
    "mlp_ratio": 2,
    "activation": "quick_gelu",
    "text_width": 16,
    "text_layers": 2,
    "text_heads": 2,
    "projection": 12,
    "vocab_size": 40,
    "text_length": 9,
    "end_id": 39,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
}
IDS = torch.tensor([[38, 4, 7, 9, 39, 39], [38, 5, 39, 39, 39, 39], [38, 1, 2, 3, 8, 39]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]]).bool()


@pytest.fixture(scope="module")
def model() -> Clip:
    torch.manual_seed(0)
    return build_host("clip-tiny").double().eval()


@pytest.fixture(scope="module")
def theirs() -> CLIPModel:
    """transformers' own CLIP in SIZES, every tensor random, norms and biases too."""
    shared = {"hidden_act": "quick_gelu"}
    config = CLIPConfig(
        text_config={
            **shared,
            "vocab_size": 40,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 9,
            "bos_token_id": 38,
            "eos_token_id": 39,
            "pad_token_id": 39,
        },
        vision_config={
            **shared,
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "image_size": 32,
            "patch_size": 8,
        },
        projection_dim=12,
    )
    model = CLIPModel(config).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, dtype=torch.float64, generator=generator))
    return model


def open_clip_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' tensors under the names, and in the layouts, of open_clip's and OpenAI's files."""
    found = {
        "visual.class_embedding": state["vision_model.embeddings.class_embedding"],
        "visual.conv1.weight": state["vision_model.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": state["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T,
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T,
        "logit_scale": state["logit_scale"],
        "attn_mask": torch.zeros(9, 9),
        "context_length": torch.tensor(9),
    }
    norms = {
        "visual.ln_pre": "vision_model.pre_layrnorm",
        "visual.ln_post": "vision_model.post_layernorm",
        "ln_final": "text_model.final_layer_norm",
    }
    for here, side, blocks in (("visual.", "vision_model", 3), ("", "text_model", 2)):
        for block in range(blocks):
            own, other = f"{here}transformer.resblocks.{block}", f"{side}.encoder.layers.{block}"
            norms |= {
                f"{own}.ln_1": f"{other}.layer_norm1",
                f"{own}.ln_2": f"{other}.layer_norm2",
                f"{own}.mlp.c_fc": f"{other}.mlp.fc1",
                f"{own}.mlp.c_proj": f"{other}.mlp.fc2",
                f"{own}.attn.out_proj": f"{other}.self_attn.out_proj",
            }
            for kind in ("weight", "bias"):
                fused = [state[f"{other}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                found[f"{own}.attn.in_proj_{kind}"] = torch.cat(fused)
    for own, other in norms.items():
        found |= {f"{own}.{kind}": state[f"{other}.{kind}"] for kind in ("weight", "bias")}
    return found


def load(weights: dict[str, Tensor], **changes: Any) -> tuple[Clip, LoadReport]:
    model = Clip(ClipConfig.model_validate({**SIZES, **changes})).double().eval()
    return model, load_released(model, weights, "clip.pt")


@torch.no_grad()
def test_shapes(model: Clip, tokenizer: TextTokenizer, images: Tensor) -> None:
    texts = model.text_batch(*tokenizer(TEXTS))
    states = model.encode_image(images)
    assert states.states.shape == (3, 65, 96)
    for embedded in (model.embed_image(states), model.embed_text(texts)):
        assert embedded.shape == (3, 96)
        torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize(("preset", "million"), [("small", 63), ("base", 150)])
def test_presets_are_of_the_published_size(preset: str, million: int) -> None:
    with torch.device("meta"):
        model = build_host(f"clip-{preset}")
    assert sum(parameter.numel() for parameter in model.parameters()) // 1_000_000 == million - 1


@torch.no_grad()
def test_neither_padding_nor_neighbours_change_a_result(model: Clip, tokenizer: TextTokenizer, images: Tensor) -> None:
    tower = open_tower(model.vision)
    reducer = make_reducer("elip", tower.shape)
    texts = model.text_batch(*tokenizer(TEXTS))
    together = model.embed_image(encode(tower, reducer, images, model.guide(texts)))
    for row, text in enumerate(TEXTS):
        own = model.text_batch(*tokenizer([text]))
        alone = model.embed_image(encode(tower, reducer, images[row : row + 1], model.guide(own)))
        torch.testing.assert_close(model.embed_text(texts)[row], model.embed_text(own)[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-12)


@torch.no_grad()
def test_every_token_kept_is_the_dense_model_bit_for_bit(model: Clip, tokenizer: TextTokenizer, images: Tensor) -> None:
    tower, guide = open_tower(model.vision), model.guide(model.text_batch(*tokenizer(TEXTS)))
    kept = encode(tower, make_reducer("elip", tower.shape, ratio=1.0), images, guide)
    assert torch.equal(kept.states, encode(tower, make_reducer("dense", tower.shape), images).states)
    assert torch.equal(kept.states, model.encode_image(images).states)


@torch.no_grad()
def test_a_token_reads_only_what_stands_before_it(model: Clip, tokenizer: TextTokenizer) -> None:
    ids, mask = tokenizer(TEXTS[:1])
    changed = ids.clone()
    changed[0, 4] = tokenizer.vocabulary["moon"]
    before, after = (model.encode_text(each, mask).states for each in (ids, changed))
    assert torch.equal(before[:, :4], after[:, :4])
    assert ((before - after)[:, 4:].abs().amax(-1) > 1e-6).all()


@torch.no_grad()
def test_attention_of_both_sides_is_the_harness_own(
    model: Clip, tokenizer: TextTokenizer, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = kernels.attention
    for opened in (stack, attention):
        monkeypatch.setattr(opened, "attention", lambda *given: calls.append(1) or original(*given))
    model.encode_text(*tokenizer(TEXTS))
    assert len(calls) == 3
    model.encode_image(images)
    assert len(calls) == 3 + 12


def test_the_guide_is_the_unit_feature_in_the_vision_width_without_gradient() -> None:
    model = Clip(ClipConfig.model_validate(SIZES)).double()
    texts = model.text_batch(IDS, MASK)
    guide = model.guide(texts)
    assert guide.text_cls.shape == (3, 24)
    assert not guide.text_cls.requires_grad
    expected = F.normalize(model.text_feature(texts), dim=-1) @ model.image_projection.weight
    assert torch.equal(guide.text_cls, expected.detach())


@torch.no_grad()
@pytest.mark.parametrize("program", ["transformers", "open_clip"])
def test_a_released_file_means_the_same_here(theirs: CLIPModel, program: str) -> None:
    state = dict(theirs.state_dict())
    weights = state if program == "transformers" else open_clip_names(state)
    model, report = load(weights)
    assert not report.missing
    assert set(report.loaded) | set(report.left_out) == set(weights)
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = theirs(input_ids=IDS, pixel_values=images, attention_mask=MASK.long())
    image, text = model.embed_image(model.encode_image(images)), model.embed_text(model.text_batch(IDS, MASK))
    torch.testing.assert_close(image, expected.image_embeds, rtol=0, atol=1e-12)
    torch.testing.assert_close(text, expected.text_embeds, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.scale() * image @ text.T, expected.logits_per_image, rtol=0, atol=1e-10)


def test_what_is_no_weight_is_named(theirs: CLIPModel) -> None:
    _, report = load(open_clip_names(dict(theirs.state_dict())))
    assert report.left_out == {"attn_mask": "the causal mask", "context_length": "a size of the model"}
    position_ids = {"text_model.embeddings.position_ids": torch.arange(9), **theirs.state_dict()}
    _, report = load(position_ids)
    assert report.left_out == {"text_model.embeddings.position_ids": "0, 1, 2, ..."}


def test_positions_are_interpolated_to_another_resolution(theirs: CLIPModel) -> None:
    _, report = load(dict(theirs.state_dict()), image_size=64)
    assert report.resized == ["vision.embeddings.position_embedding.weight (17, 24) -> (65, 24)"]


@pytest.mark.parametrize("change", [{"width": 48}, {"depth": 2}, {"text_layers": 1}, {"projection": 16}])
def test_a_file_of_another_size_is_refused_in_one_line(theirs: CLIPModel, change: dict[str, int]) -> None:
    for weights in (dict(theirs.state_dict()), open_clip_names(dict(theirs.state_dict()))):
        with pytest.raises(HarnessError, match=r"clip\.pt: not of Clip of this size") as refusal:
            load(weights, **change)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["visual.layer1.0.conv1.weight", "visual_encoder.cls_token", "logit_bias"])
def test_a_file_of_another_architecture_is_refused(theirs: CLIPModel, name: str) -> None:
    with pytest.raises(HarnessError, match=f"it holds {name}"):
        load({**theirs.state_dict(), name: torch.zeros(1)})


@torch.no_grad()
def test_the_scale_stays_between_1_and_100() -> None:
    model = Clip(ClipConfig.model_validate(SIZES))
    torch.testing.assert_close(model.scale(), torch.tensor(1 / 0.07))
    for value, expected in ((9.0, 100.0), (-1.0, 1.0)):
        model.logit_scale.fill_(value)
        model.clamp_scale()
        torch.testing.assert_close(model.scale(), torch.tensor(expected))


def test_its_own_weights_are_named_alike_under_every_release_of_transformers(model: Clip) -> None:
    state = model.state_dict()
    assert "vision.embeddings.position_embedding.weight" in state
    other = build_host("clip-tiny").double()
    other.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


def test_it_refuses_matching(model: Clip, tokenizer: TextTokenizer) -> None:
    with pytest.raises(HarnessError, match="Clip cannot match: it can contrast"):
        model.match(model.text_batch(*tokenizer(TEXTS)), torch.zeros(3, 65, 96))


def their_open_clip(theirs: CLIPModel) -> open_clip.CLIP:
    """open_clip's own CLIP with the same tensors."""
    model = open_clip.CLIP(
        embed_dim=12,
        vision_cfg={"image_size": 32, "patch_size": 8, "width": 24, "layers": 3, "head_width": 8, "mlp_ratio": 2.0},
        text_cfg={"context_length": 9, "vocab_size": 40, "width": 16, "heads": 2, "layers": 2, "mlp_ratio": 2.0},
        quick_gelu=True,
    ).double()
    left = model.load_state_dict(open_clip_names(dict(theirs.state_dict())), strict=False)
    assert not left.missing_keys
    return model.eval()


@pytest.mark.parametrize("program", ["transformers", "open_clip"])
@pytest.mark.parametrize("reduced", [False, True])
def test_a_guide_from_a_clip_of_ones_own_is_that_of_the_host(theirs: CLIPModel, program: str, reduced: bool) -> None:
    host, _ = load(dict(theirs.state_dict()))
    texts = host.text_batch(IDS, MASK)
    wanted, states = host.guide(texts), torch.randn(3, 5, 24, dtype=torch.float64)
    model = theirs if program == "transformers" else their_open_clip(theirs)
    if reduced:
        model = harness.reduce(model, "elip", schedule=STAGES)
    guide = harness.clip_guide(model, 3 * host.text_feature(texts))
    assert wanted.shared is not None
    assert guide.shared is not None
    pairs = [
        (guide.text_cls, wanted.text_cls),
        (guide.text_feature, wanted.text_feature),
        (guide.shared[0](states), wanted.shared[0](states)),
        (guide.shared[1](states[..., :16]), wanted.shared[1](states[..., :16])),
    ]
    for found, expected in pairs:
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("program", ["transformers", "open_clip"])
def test_a_guided_clip_of_ones_own_encodes_as_the_host_does(theirs: CLIPModel, program: str) -> None:
    host, _ = load(dict(theirs.state_dict()))
    tower, guide = open_tower(host.vision), host.guide(host.text_batch(IDS, MASK))
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = host.image_feature(encode(tower, make_reducer("elip", tower.shape, schedule=STAGES), images, guide))
    reduced = harness.reduce(theirs if program == "transformers" else their_open_clip(theirs), "elip", schedule=STAGES)
    with reduced.guided(harness.clip_guide(reduced, host.text_feature(host.text_batch(IDS, MASK)))):
        encode_images = getattr(reduced.model, "get_image_features" if program == "transformers" else "encode_image")
        found = encode_images(images)
    found = found if isinstance(found, Tensor) else found.pooler_output
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_what_transformers_returns_of_texts_makes_a_guide(theirs: CLIPModel) -> None:
    returned = theirs.get_text_features(input_ids=IDS, attention_mask=MASK.long())
    features = returned if isinstance(returned, Tensor) else returned.pooler_output
    wanted = harness.clip_guide(theirs, features)
    for given in (returned, SimpleNamespace(pooler_output=features)):  # before transformers 5, and since
        assert torch.equal(harness.clip_guide(theirs, given).text_cls, wanted.text_cls)
    with pytest.raises(HarnessError, match=r"text features: a list, expected a torch.Tensor \(B, P\)"):
        harness.clip_guide(theirs, ["a ring"])


def test_a_tensor_for_a_guide_is_one_line(theirs: CLIPModel) -> None:
    reduced, images = harness.reduce(theirs, "elip", schedule=STAGES), torch.zeros(3, 3, 32, 32, dtype=torch.float64)
    with pytest.raises(HarnessError, match=r"guide: a Tensor, expected harness.Guide\(text_cls\), text_cls \(B, D\)"):
        reduced(input_ids=IDS, pixel_values=images, guide=torch.zeros(3, 24))


def test_what_has_no_shared_space_gets_no_guide(theirs: CLIPModel) -> None:
    with pytest.raises(HarnessError, match=r"text features 3 x 16: expected B x 12, the space that the CLIP shares"):
        harness.clip_guide(theirs, torch.zeros(3, 16))
    with pytest.raises(HarnessError, match=r"CLIPVision[A-Za-z]+: no CLIP with projections of both sides; make the"):
        harness.clip_guide(theirs.vision_model, torch.zeros(3, 12))
