"""Facts about METER: what its streams read, what its heads start from, and which files fill it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.check.golden.file import Golden, read_golden
from harness.check.golden.meter import meter_config
from harness.hosts.build import build_host
from harness.hosts.host import TextBatch
from harness.hosts.meter.model import PRESETS, Meter, MeterConfig
from harness.hosts.meter.names import LAST_BLOCK
from harness.hosts.parts.tokenizer import TextTokenizer
from harness.hosts.parts.towers import open_tower
from harness.hosts.weights.released import LoadReport, load_released
from harness.kit.errors import HarnessError
from harness.reduction import Tokens, encode
from harness.reduction.budget import make_reducer

TEXTS = ("a red ring at top left", "what color is the moon at bottom right?", "yes")
GOLDEN = Path(__file__).parent.parent / "goldens" / "meter_infer.safetensors"
BLOCK = "vit_model.visual.transformer.resblocks."


@pytest.fixture(scope="module")
def model() -> Meter:
    torch.manual_seed(0)
    return build_host("meter-tiny").double().eval()


@pytest.fixture(scope="module")
def golden() -> Golden:
    return read_golden(GOLDEN)


def released_model(golden: Golden, **changes: int) -> Meter:
    config = meter_config(golden.config, golden.part("weight"))
    return Meter(config.model_copy(update=changes)).double().eval()


def load(golden: Golden, weights: dict[str, Tensor], **changes: int) -> tuple[Meter, LoadReport]:
    model = released_model(golden, **changes)
    return model, load_released(model, weights, "meter.ckpt")


@torch.no_grad()
def reduced(model: Meter, texts: TextBatch, images: Tensor) -> Tokens:
    tower = open_tower(model.vision)
    return encode(
        tower, make_reducer("elip", tower.shape, settings=Meter.PAPER_SETTINGS["elip"]), images, model.guide(texts)
    )


@torch.no_grad()
def test_shapes(model: Meter, tokenizer: TextTokenizer, images: Tensor) -> None:
    texts = model.text_batch(*tokenizer(TEXTS))
    length, width = texts.ids.shape[1], model.config.width
    states = reduced(model, texts, images)
    assert states.states.shape == (3, 1 + 28 + 1, width)
    found = model.co_attend(texts, states)
    assert found.text.states.shape == (3, length, width)
    assert found.image.states.shape == states.states.shape
    assert found.cls.shape == (3, 2 * width)
    assert model.match(texts, states).shape == (3, 2)
    assert model.mlm_logits(found.text.states).shape == (3, length, model.config.vocab_size)
    assert model.entailment_logits(found.cls).shape == (3, 3)
    assert model.compare(texts, states, states).shape == (3, 2)
    chosen = torch.tensor([4, 0])
    expected = model.answer_logits(found.cls)[:, [4, 0]]
    assert torch.equal(model.answer_scores(texts, states, chosen), expected)


def test_base_is_of_the_published_size() -> None:
    with torch.device("meta"):
        model = build_host("meter-base")
    shape = open_tower(model.vision).shape
    assert (shape.depth, shape.patches, shape.width) == (11, 18 * 18, 768)
    assert model.embeddings.positions.num_embeddings == 514
    assert all(type(layer.mlp.activation_fn).__name__ == "QuickGELUActivation" for layer in vision_blocks(model))


def vision_blocks(model: Meter) -> torch.nn.ModuleList:
    tower: Any = open_tower(model.vision)
    blocks: torch.nn.ModuleList = tower.core.encoder.layers
    return blocks


@torch.no_grad()
def test_neither_padding_nor_neighbours_change_a_result(model: Meter, tokenizer: TextTokenizer, images: Tensor) -> None:
    texts = model.text_batch(*tokenizer(TEXTS))
    together = model.co_attend(texts, reduced(model, texts, images))
    for row, text in enumerate(TEXTS):
        own = model.text_batch(*tokenizer([text]))
        alone = model.co_attend(own, reduced(model, own, images[row : row + 1]))
        for ours, expected in (
            (together.cls, alone.cls),
            (together.image.states, alone.image.states),
            (together.text.states, alone.text.states),
        ):
            ours = ours[row : row + 1]
            torch.testing.assert_close(ours[:, : expected.shape[1]], expected, rtol=0, atol=1e-12)


@torch.no_grad()
def test_every_token_kept_is_the_dense_model_bit_for_bit(
    model: Meter, tokenizer: TextTokenizer, images: Tensor
) -> None:
    tower, guide = open_tower(model.vision), model.guide(model.text_batch(*tokenizer(TEXTS)))
    reducer = make_reducer("elip", tower.shape, ratio=1.0, settings=Meter.PAPER_SETTINGS["elip"])
    kept = encode(tower, reducer, images, guide)
    assert torch.equal(kept.states, encode(tower, make_reducer("dense", tower.shape), images).states)
    assert torch.equal(kept.states, model.encode_image(images).states)


def test_the_guide_is_the_text_side_alone_without_gradient(model: Meter, tokenizer: TextTokenizer) -> None:
    texts = model.text_batch(*tokenizer(TEXTS))
    guide = model.guide(texts)
    assert texts.states.requires_grad
    assert not guide.text_cls.requires_grad
    assert torch.equal(guide.text_cls, texts.states[:, 0])


@torch.no_grad()
def test_each_stream_reads_what_the_other_was_before_the_layer(tokenizer: TextTokenizer, images: Tensor) -> None:
    model = Meter(MeterConfig.model_validate({**PRESETS["tiny"], "fusion_layers": 1})).double().eval()
    texts, states = model.text_batch(*tokenizer(TEXTS)), model.encode_image(images)
    before = model.co_attend(texts, states)
    for stream, other in (("text", "image"), ("image", "text")):
        changed = Meter(model.config).double().eval()
        changed.load_state_dict(model.state_dict())
        for parameter in changed.get_submodule(f"{stream}_fusion").parameters():
            parameter.zero_()
        after = changed.co_attend(texts, states)
        assert not torch.equal(getattr(after, stream).states, getattr(before, stream).states)
        assert torch.equal(getattr(after, other).states, getattr(before, other).states)


@torch.no_grad()
def test_fine_tuning_starts_from_what_pre_training_learnt(
    model: Meter, tokenizer: TextTokenizer, images: Tensor
) -> None:
    texts, states = model.text_batch(*tokenizer(TEXTS)), model.encode_image(images)
    first, second = model.co_attend(texts, states), model.co_attend(texts, states, "second_image")
    assert torch.equal(first.cls, second.cls)
    torch.testing.assert_close(model.rank_scores(first.cls), model.match_logits(first.cls)[:, 1], rtol=0, atol=1e-12)


def test_every_tensor_of_a_released_file_is_accounted_for(golden: Golden) -> None:
    weights = golden.part("weight")
    _, report = load(golden, weights)
    assert set(report.loaded) | set(report.left_out) == set(weights)
    assert set(report.left_out) == {
        "text_transformer.embeddings.position_ids",
        "text_transformer.pooler.dense.weight",
        "text_transformer.pooler.dense.bias",
    }
    assert {name.split(".")[0] for name in report.missing} == {"types", "pair_head", "rank_head"}


def test_what_a_released_file_lacks_starts_from_what_it_holds(golden: Golden) -> None:
    weights = golden.part("weight")
    model, report = load(golden, weights)
    model.inherit(report.missing)
    assert torch.equal(model.rank_head.weight[0], weights["itm_score.fc.weight"][1])
    assert torch.equal(model.types["second_image"], weights["token_type_embeddings.weight"][1])


def test_a_file_fine_tuned_on_pairs_keeps_its_third_type(golden: Golden) -> None:
    weights = golden.part("weight")
    width = golden.config["vision"]["width"]
    types = torch.randn(3, width, dtype=torch.float64)
    weights |= {"token_type_embeddings.weight": types, "rank_output.weight": torch.randn(1, 2 * width)}
    model, report = load(golden, weights)
    model.inherit(report.missing)
    assert torch.equal(model.types["second_image"], types[2])
    assert torch.equal(model.rank_head.weight.float(), weights["rank_output.weight"])


def test_the_last_block_of_clip_is_left_out_and_named(golden: Golden) -> None:
    weights = golden.part("weight")
    last = {
        name.replace(f"{BLOCK}10.", f"{BLOCK}11."): tensor
        for name, tensor in weights.items()
        if name.startswith(f"{BLOCK}10.")
    }
    clip = {"visual.proj": 1, "token_embedding.weight": 1, "positional_embedding": 1, "ln_final.bias": 1}
    rest = {f"vit_model.{name}": torch.zeros(size) for name, size in clip.items()}
    model, report = load(golden, {**weights, **last, **rest})
    assert last
    assert {report.left_out[name] for name in last} == {LAST_BLOCK.reason}
    assert set(rest) <= set(report.left_out)
    plain, _ = load(golden, weights)
    image = golden.part("input")["image"]
    with torch.no_grad():
        assert torch.equal(model.encode_image(image).states, plain.encode_image(image).states)


def test_positions_are_interpolated_to_another_resolution(golden: Golden) -> None:
    model, report = load(golden, golden.part("weight"), image_size=96)
    assert report.resized == ["vision.embeddings.position_embedding.weight (65, 24) -> (145, 24)"]
    with torch.no_grad():
        assert model.encode_image(torch.zeros(1, 3, 96, 96, dtype=torch.float64)).states.isfinite().all()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 48}, "expected"),
        ({"depth": 9}, "no such tensor"),
        ({"text_layers": 2}, "no such tensor"),
        ({"answer_classes": 12}, "vqa_classifier.3"),
    ],
)
def test_a_file_of_another_size_is_refused_in_one_line(golden: Golden, change: dict[str, int], reason: str) -> None:
    with pytest.raises(HarnessError, match=f"meter.ckpt: not of Meter of this size: .*{reason}") as refusal:
        load(golden, golden.part("weight"), **change)
    assert "\n" not in str(refusal.value)


def test_a_file_of_another_architecture_is_refused(golden: Golden) -> None:
    weights = {
        "visual_encoder.cls_token": torch.zeros(1, 1, 24),
        "text_encoder.bert.embeddings.LayerNorm.bias": torch.zeros(24),
    }
    with pytest.raises(HarnessError, match=r"it holds visual_encoder\.cls_token"):
        load(golden, weights)


def test_its_own_weights_are_named_alike_under_every_release_of_transformers(model: Meter) -> None:
    state = model.state_dict()
    assert "vision.embeddings.position_embedding.weight" in state
    other = build_host("meter-tiny").double()
    other.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


def test_it_refuses_contrast(model: Meter) -> None:
    with pytest.raises(HarnessError, match="Meter cannot contrast: it can match"):
        model.embed_image(torch.zeros(1, 65, 96))
