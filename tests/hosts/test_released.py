"""Facts about other programs' weights: every tensor is loaded or named, and what is not a host's is refused."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertForPreTraining, BertModel, RobertaConfig, RobertaForMaskedLM

from harness.check.golden.blip import blip_config
from harness.check.golden.clip import clip_config
from harness.check.golden.file import read_golden
from harness.check.golden.meter import meter_config
from harness.hosts.albef import model as albef
from harness.hosts.blip import model as blip
from harness.hosts.build import build_host
from harness.hosts.clip import model as clip
from harness.hosts.host import HostModel
from harness.hosts.meter import model as meter
from harness.hosts.weights.released import LoadReport, Tied, interpolate_positions, load_parts, load_released, translate
from harness.kit.errors import HarnessError

GOLDENS = Path(__file__).parent.parent / "goldens"
FILES = ("albef", "blip", "meter")
ALBEF: dict[str, Any] = {
    **albef.PRESETS["tiny"],
    "image_size": 16,
    "width": 24,
    "vocab_size": 41,
    "projection": 16,
    "positions": 12,
    "token_types": 2,
    "text_heads": 2,
    "text_mlp": 48,
}
Weights = dict[str, Tensor]


def opened(name: str) -> tuple[HostModel, Weights]:
    """A host with random weights, and other random tensors under the names of its released program."""
    torch.manual_seed(0)
    if name == "albef":
        model = albef.Albef(albef.AlbefConfig.model_validate(ALBEF)).double().eval()
        return model, albef_file(model)
    golden = read_golden(GOLDENS / {"blip": "blip_pretrain.safetensors", "meter": "meter_infer.safetensors"}[name])
    weights = golden.part("weight")
    if name == "blip":
        return blip.Blip(blip_config(golden.config)).double().eval(), weights
    return meter.Meter(meter_config(golden.config, weights)).double().eval(), weights


def albef_file(model: albef.Albef) -> Weights:
    """Tensors under the names of ALBEF.pth, doubles included; the goldens prove those names."""
    prefixes = {
        r"vision\.(.+)": r"visual_encoder.\1",
        r"image_projection\.(.+)": r"vision_proj.\1",
        r"text_projection\.(.+)": r"text_proj.\1",
        r"match_head\.(.+)": r"itm_head.\1",
        r"temperature": "temp",
        r"embeddings\.words\.(.+)": r"text_encoder.bert.embeddings.word_embeddings.\1",
        r"embeddings\.positions\.(.+)": r"text_encoder.bert.embeddings.position_embeddings.\1",
        r"embeddings\.types\.(.+)": r"text_encoder.bert.embeddings.token_type_embeddings.\1",
        r"embeddings\.norm\.(.+)": r"text_encoder.bert.embeddings.LayerNorm.\1",
        r"text\.(.+)": r"text_encoder.bert.encoder.layer.\1",
        r"mlm_transform\.0\.(.+)": r"text_encoder.cls.predictions.transform.dense.\1",
        r"mlm_transform\.2\.(.+)": r"text_encoder.cls.predictions.transform.LayerNorm.\1",
        r"mlm_bias": "text_encoder.cls.predictions.bias",
    }
    file: Weights = {}
    for name, tensor in model.state_dict().items():
        layer = re.fullmatch(r"fusion\.(\d+)\.(.+)", name)
        if layer:
            released = f"text_encoder.bert.encoder.layer.{int(layer[1]) + model.config.text_layers}.{layer[2]}"
        else:
            found = (match.expand(there) for ours, there in prefixes.items() if (match := re.fullmatch(ours, name)))
            released = next(found)
        file[released] = torch.randn_like(tensor)
    predictions = "text_encoder.cls.predictions"
    file[f"{predictions}.decoder.bias"] = file[f"{predictions}.bias"].clone()
    file[f"{predictions}.decoder.weight"] = file["text_encoder.bert.embeddings.word_embeddings.weight"].clone()
    momentum = {
        name.replace(".", "_m.", 1): tensor for name, tensor in file.items() if name.startswith("visual_encoder")
    }
    queue = {"queue_ptr": torch.zeros(1), "image_queue": torch.zeros(16, 8)}
    return {**file, **momentum, **queue, "text_encoder.bert.embeddings.position_ids": torch.arange(12)[None]}


def refused(model: HostModel, weights: Weights, reason: str, part: str | None = None) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(HarnessError, match=reason) as caught:
        load_released(model, weights, "a.pth") if part is None else load_parts(model, weights, "a.pth", part)
    assert str(caught.value).startswith("weights a.pth: ")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def accounted(report: LoadReport, weights: Weights) -> None:
    assert set(report.loaded) | set(report.left_out) == set(weights)
    assert not set(report.loaded) & set(report.left_out)
    assert set(report.missing) == set(report.reasons)
    assert len(report.lines()) == 1 + len(report.resized) + len(report.left_out) + len(report.missing)


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_of_a_file_is_loaded_or_named(name: str) -> None:
    model, weights = opened(name)
    accounted(load_released(model, weights, "a.pth"), weights)


@pytest.mark.parametrize("name", FILES)
def test_a_skeleton_says_what_would_become_of_a_file_and_stays_empty(name: str) -> None:
    """Without a word: torch remarks on every tensor that is copied to the meta device."""
    model, weights = opened(name)
    report = load_released(model, weights, "a.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = model.to("meta")
        assert load_released(empty, weights, "a.pth") == report
    assert all(tensor.is_meta for tensor in empty.state_dict().values())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["attention.self.query", "LayerNorm", "embeddings"])
def test_a_file_that_lacks_one_tensor_is_refused_by_its_name(name: str, kind: str) -> None:
    model, weights = opened(name)
    kept, lost = dict(weights), None
    for released in weights:
        target = model.released(released)
        if kind in released and isinstance(target, str):
            lost = target
            doubles = [other for other in weights if model.released(other) in (target, Tied(target))]
            for double in doubles:
                del kept[double]
            break
    assert lost is not None
    refused(model, kept, rf"it lacks {lost}; name weights of this model")


def test_what_is_lacking_is_counted() -> None:
    model, weights = opened("albef")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("visual_encoder.blocks.0.")}
    refused(model, kept, r"it lacks vision.blocks.0.norm1.weight and 11 more like it")


def test_half_a_head_is_damage_and_none_is_another_kind_of_file() -> None:
    model, weights = opened("albef")
    head = [name for name in weights if name.startswith("text_encoder.cls.predictions.transform.")]
    without = {name: tensor for name, tensor in weights.items() if ".cls." not in name}
    report = load_released(model, without, "a.pth")
    assert {name.split(".")[0] for name in report.missing} == {"mlm_transform", "mlm_bias"}
    assert set(report.reasons.values()) == {"fine-tuned files hold no head for masked words"}
    refused(model, without | {head[0]: weights[head[0]]}, "it lacks mlm_")


def test_albef_s_fine_tuned_files_name_the_text_side_without_bert() -> None:
    model, weights = opened("albef")
    file = {
        name.replace("text_encoder.bert.", "text_encoder."): t for name, t in weights.items() if ".cls." not in name
    }
    file = {name: tensor for name, tensor in file.items() if not name.startswith(("vision_proj", "text_proj", "temp"))}
    file |= {"cls_head.0.weight": torch.zeros(2, 2), "cls_head_m.0.weight": torch.zeros(2, 2)}
    report = load_released(model, file, "a.pth")
    accounted(report, file)
    assert "cls_head.0.weight" in report.left_out
    query = "encoder.layer.0.attention.self.query.weight"
    assert torch.equal(model.state_dict()["text.0.attention.self.query.weight"], weights[f"text_encoder.bert.{query}"])


def test_a_tied_double_alone_fills_its_twin() -> None:
    model, weights = opened("blip")
    report = load_released(model, weights, "a.pth")
    weighed = [name for name in report.left_out if "decoder" in name and not name.endswith("position_ids")]
    assert weighed
    assert all(report.left_out[name].startswith("double of ") for name in weighed)
    captioning = {
        name: tensor for name, tensor in weights.items() if name.startswith(("visual_encoder.", "text_decoder."))
    }
    captioner, _ = opened("blip")
    report = load_released(captioner, captioning, "a.pth")
    accounted(report, captioning)
    words = "text_decoder.bert.embeddings.word_embeddings.weight"
    assert words in report.loaded
    assert torch.equal(captioner.state_dict()["embeddings.words.weight"], weights[words])


def test_the_second_double_of_an_unfilled_twin_must_equal_the_first() -> None:
    model, weights = opened("blip")
    file = {name: tensor for name, tensor in weights.items() if name.startswith(("visual_encoder.", "text_decoder."))}
    head = "text_decoder.cls.predictions.decoder.weight"
    words = weights["text_decoder.bert.embeddings.word_embeddings.weight"]
    report = load_released(model, {**file, head: words.clone()}, "a.pth")
    assert report.left_out[head] == "double of embeddings.words.weight"
    refused(model, {**file, head: words + 1}, "embeddings.words.weight, to which it is tied")


@pytest.mark.parametrize("alone", [True, False])
def test_a_double_of_another_shape_is_refused(alone: bool) -> None:
    model, weights = opened("blip")
    file = {name: t for name, t in weights.items() if not alone or not name.startswith("text_encoder.")}
    name = "text_decoder.bert.encoder.layer.0.intermediate.dense.bias"
    refused(model, {**file, name: torch.zeros(7)}, rf"{name} is \(7,\), expected \(\d+,\)")


def answering(weights: Weights) -> Weights:
    """A file of question answering: no heads, and a decoder that has gone its own way."""
    file = {name: tensor for name, tensor in weights.items() if name.startswith(("visual_encoder.", "text_"))}
    file = {name: tensor for name, tensor in file.items() if not name.startswith("text_proj")}
    name = "text_decoder.bert.encoder.layer.0.intermediate.dense.bias"
    return {**file, name: file.get(name, file[name.replace("decoder.bert", "encoder")]) + 1}


def test_a_decoder_of_its_own_needs_a_host_that_shares_nothing() -> None:
    model, weights = opened("blip")
    file = answering(weights)
    refused(model, file, "differs from encoder.0.intermediate.dense.bias.*question answering.*need shared=False")
    sizes = blip.Blip.sizes_for(file)
    assert sizes == {"vocab_size": model.config.vocab_size, "shared": False}
    apart = blip.Blip(model.config.model_copy(update=sizes)).double()
    accounted(load_released(apart, file, "a.pth"), file)
    assert blip.Blip.sizes_for(weights) == {"vocab_size": model.config.vocab_size}


def test_sizes_are_read_from_the_tensors() -> None:
    for name, kind in (("albef", albef.Albef), ("blip", blip.Blip)):
        model, weights = opened(name)
        assert kind.sizes_for(weights)["vocab_size"] == model.config.vocab_size
    model, weights = opened("meter")
    assert meter.Meter.sizes_for(weights) == {"answer_classes": model.config.answer_classes}
    assert meter.Meter.sizes_for({"a": torch.zeros(1)}) == albef.Albef.sizes_for({}) == {}


def test_what_a_host_derives_is_derived_by_loading() -> None:
    model, weights = opened("meter")
    load_released(model, weights, "a.ckpt")
    assert torch.equal(model.state_dict()["rank_head.weight"][0], weights["itm_score.fc.weight"][1])
    assert torch.equal(model.state_dict()["types.second_image"], weights["token_type_embeddings.weight"][1])


def test_a_whole_clip_may_lack_nothing_and_a_tower_alone_its_text_side() -> None:
    golden = read_golden(GOLDENS / "clip_visual.safetensors")
    config = clip_config(golden.config, golden.part("weight"))
    weights = {f"visual.{name}": tensor for name, tensor in golden.part("weight").items()}
    tower = clip.Clip(config).double()
    assert {name.split(".")[0] for name in load_released(tower, weights, "a.pt").missing} == {
        *("words", "positions", "text_norm", "text_projection", "logit_scale")
    }
    whole = clip.Clip(config.model_copy(update={"text_layers": 1}))
    refused(whole, weights, "it lacks logit_scale and 21 more|it lacks ")
    refused(tower, {}, "it lacks ")


def test_positions_are_interpolated_as_directly() -> None:
    table = torch.randn(1, 17, 6, generator=torch.Generator().manual_seed(0))
    grid = table[:, 1:].view(1, 4, 4, 6).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(7, 7), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)
    found = interpolate_positions(table, (1, 50, 6))
    torch.testing.assert_close(found, torch.cat([table[:, :1], expected], 1), rtol=0, atol=1e-6)
    assert torch.equal(interpolate_positions(table[0], (50, 6)), found[0])
    with pytest.raises(HarnessError, match="position table of 18 rows for 50 tokens: expected square grids"):
        interpolate_positions(torch.zeros(18, 6), (50, 6))


def test_a_table_s_first_fitting_row_translates() -> None:
    table = ((r"a\.(\d+)", r"b.\1"), (r"a\..+", Tied("c")))
    assert translate("a.3", table) == "b.3"
    assert translate("a.x", table) == Tied("c")
    assert translate("za.3", table) is None


def timm_vit(model: HostModel, **changes: Any) -> VisionTransformer:
    """timm's ViT with a classifier, in a host's sizes."""
    config = model.config
    sizes = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
        "num_classes": 5,
    }
    return VisionTransformer(**{**sizes, **changes}).double()


@pytest.mark.parametrize("name", ["albef", "blip"])
def test_a_tower_starts_from_timm_and_all_else_stays(name: str) -> None:
    model, _ = opened(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    vit = timm_vit(model).state_dict()
    report = load_parts(model, vit, "deit.pth", "vision")
    accounted(report, vit)
    assert set(report.left_out) == {"head.weight", "head.bias"}
    assert not report.missing
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, vit[key.removeprefix("vision.")] if key.startswith("vision.") else before[key])


def test_a_tower_of_another_resolution_is_resized() -> None:
    model, _ = opened("albef")
    side = 2 * model.config.image_size
    report = load_parts(model, timm_vit(model, img_size=side).state_dict(), "a.pth", "vision")
    assert len(report.resized) == 1
    assert report.resized[0].startswith("vision.pos_embed ")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"depth": 13}, "no such tensor"),
        ({"depth": 11}, "it lacks vision.blocks.11"),
        ({"embed_dim": 48, "num_heads": 3}, "expected"),
        ({"init_values": 0.1}, r"it holds blocks.0.ls1.gamma"),
        ({"reg_tokens": 4}, "it holds reg_token"),
    ],
)
def test_another_tower_is_refused(changes: dict[str, Any], reason: str) -> None:
    model, _ = opened("albef")
    refused(model, timm_vit(model, **changes).state_dict(), reason, "vision")


@pytest.mark.parametrize("part", ["vision", "text"])
def test_a_part_is_not_taken_from_a_file_of_something_else(part: str) -> None:
    for name in FILES:
        model, _ = opened(name)
        refused(model, {"layer1.0.conv1.weight": torch.zeros(1)}, "it holds layer1.0.conv1.weight", part)
        refused(model, {}, "it lacks ", part)


def test_meter_s_tower_starts_from_clip() -> None:
    model, weights = opened("meter")
    tower = {name.removeprefix("vit_model."): t for name, t in weights.items() if name.startswith("vit_model.")}
    rest = {
        "visual.proj": torch.zeros(2, 2),
        "token_embedding.weight": torch.zeros(2, 2),
        "logit_scale": torch.zeros(()),
    }
    report = load_parts(model, tower | rest, "clip.pt", "vision")
    accounted(report, tower | rest)
    assert set(rest) <= set(report.left_out)
    expected, _ = opened("meter")
    load_released(expected, weights, "a.ckpt")
    ours, theirs = model.state_dict(), expected.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name.startswith("vision."))


def test_clip_s_tower_starts_from_another_clip_and_the_rest_is_named() -> None:
    golden = read_golden(GOLDENS / "clip_visual.safetensors")
    weights = {f"visual.{name}": tensor for name, tensor in golden.part("weight").items()}
    weights |= {"logit_scale": torch.zeros(()), "transformer.resblocks.0.ln_1.bias": torch.zeros(3)}
    model = clip.Clip(clip_config(golden.config, golden.part("weight"))).double()
    report = load_parts(model, weights, "clip.pt", "vision")
    accounted(report, weights)
    assert set(report.left_out) == {"visual.proj", "logit_scale", "transformer.resblocks.0.ln_1.bias"}
    with pytest.raises(HarnessError, match="Clip cannot take its part 'text' from another model's weights"):
        load_parts(model, weights, "clip.pt", "text")


def bert_config(model: HostModel, words: int, **changes: Any) -> BertConfig:
    state = model.state_dict()
    layers = len(model.text) + len(model.fusion) if isinstance(model, albef.Albef) else model.config.text_layers
    sizes = {
        "vocab_size": words,
        "hidden_size": model.config.width,
        "num_hidden_layers": layers,
        "num_attention_heads": model.config.text_heads,
        "intermediate_size": model.config.text_mlp,
        "max_position_embeddings": len(state["embeddings.positions.weight"]),
        "type_vocab_size": 2,
    }
    return BertConfig(**{**sizes, **changes})


def old_names(state: Weights) -> Weights:
    """A file of BERT as it was first published."""
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in state.items()
    }


@torch.no_grad()
@pytest.mark.parametrize("naming", [dict, old_names], ids=["new", "old"])
def test_albef_s_text_and_fusion_start_from_bert(naming: Callable[[Weights], Weights]) -> None:
    model, _ = opened("albef")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    bert = BertForPreTraining(bert_config(model, model.config.vocab_size)).double().eval()
    weights = naming(dict(bert.state_dict()))
    report = load_parts(model, weights, "bert.bin", "text")
    accounted(report, weights)
    left = {name.split(".")[1] for name in report.left_out}
    assert {"pooler"} <= left
    assert report.missing
    assert all(name.startswith("fusion.") and ".crossattention." in name for name in report.missing)
    assert set(report.reasons.values()) == {"BERT has no cross-attention"}
    after = model.state_dict()
    untouched = [
        n for n in after if n.startswith(("vision.", "match_head.", "text_projection.")) or n in report.missing
    ]
    assert all(torch.equal(after[name], before[name]) for name in untouched)
    ids = torch.randint(5, model.config.vocab_size, (2, 6), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 6, dtype=torch.bool)
    states = model.encode_text(ids, mask).states
    expected = bert(ids, output_hidden_states=True)
    torch.testing.assert_close(states, expected.hidden_states[len(model.text)], rtol=0, atol=1e-10)
    torch.testing.assert_close(
        model.mlm_logits(expected.hidden_states[-1]), expected.prediction_logits, rtol=0, atol=1e-10
    )


def test_a_bert_without_its_word_head_and_prefix_is_enough() -> None:
    model, _ = opened("albef")
    weights = dict(BertModel(bert_config(model, model.config.vocab_size)).state_dict())
    report = load_parts(model, weights, "bert.bin", "text")
    accounted(report, weights)
    assert {"mlm_bias", "mlm_transform.0.weight"} <= set(report.missing)


@torch.no_grad()
@pytest.mark.parametrize("shared", [True, False])
def test_blip_s_encoder_and_decoder_start_from_bert_and_keep_their_added_words(shared: bool) -> None:
    small, _ = opened("blip")
    model = blip.Blip(small.config.model_copy(update={"shared": shared})).double().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    words = model.config.vocab_size - 2
    bert = BertForPreTraining(bert_config(model, words)).double().eval()
    weights = dict(bert.state_dict())
    report = load_parts(model, weights, "bert.bin", "text")
    accounted(report, weights)
    assert all(".crossattention." in name for name in report.missing)
    table = f"embeddings.words.weight {tuple(weights['bert.embeddings.word_embeddings.weight'].shape)} -> "
    assert any(line.startswith(table) for line in report.resized)
    assert report.left_out["bert.embeddings.token_type_embeddings.weight"] == "BLIP has no token types"
    after = model.state_dict()
    for name in ["embeddings.words.weight", "word_bias", *([] if shared else ["decoder_embeddings.words.weight"])]:
        assert torch.equal(after[name][words:], before[name][words:])
        assert not torch.equal(after[name][:words], before[name][:words]) or name == "word_bias"
    query = "attention.self.query.weight"
    for side in ("encoder", "decoder"):
        assert torch.equal(after[f"{side}.0.{query}"], weights[f"bert.encoder.layer.0.{query}"])
    without_types = BertModel(bert_config(model, words)).double().eval()
    without_types.load_state_dict({n.removeprefix("bert."): t for n, t in weights.items() if n.startswith("bert.")})
    without_types.embeddings.token_type_embeddings.weight.zero_()
    ids = torch.randint(5, words, (2, 6), generator=torch.Generator().manual_seed(0))
    expected = without_types(ids).last_hidden_state
    found = model.encode_text(ids, torch.ones_like(ids).bool()).states
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_meter_s_text_starts_from_roberta() -> None:
    model, _ = opened("meter")
    state, config = model.state_dict(), model.config
    roberta = RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_heads,
            intermediate_size=config.text_mlp,
            max_position_embeddings=len(state["embeddings.positions.weight"]),
            type_vocab_size=config.token_types,
            pad_token_id=config.padding_id,
            layer_norm_eps=config.text_eps,
        )
    ).double()
    weights = dict(roberta.eval().state_dict())
    report = load_parts(model, weights, "roberta.bin", "text")
    accounted(report, weights)
    assert not report.missing
    assert all(name.startswith("lm_head.") for name in report.left_out)
    ids = torch.randint(5, config.vocab_size, (2, 6), generator=torch.Generator().manual_seed(0))
    expected = roberta.roberta(ids).last_hidden_state
    found = model.encode_text(ids, torch.ones_like(ids).bool()).states
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_hidden_layers": 20}, "no such tensor"),
        ({"num_hidden_layers": 1}, "it lacks "),
        ({"vocab_size": 7}, r"word_embeddings.weight is \(7, "),
        ({"intermediate_size": 12}, "expected"),
    ],
)
def test_another_bert_is_refused(changes: dict[str, Any], reason: str) -> None:
    model, _ = opened("albef")
    refused(model, dict(BertModel(bert_config(model, model.config.vocab_size, **changes)).state_dict()), reason, "text")


def test_a_part_that_no_host_has_is_refused() -> None:
    for name in FILES:
        model, _ = opened(name)
        with pytest.raises(HarnessError, match="cannot take its part 'fusion'"):
            load_parts(model, {"a": torch.zeros(1)}, "a.pth", "fusion")
    assert isinstance(model, nn.Module)


@pytest.mark.parametrize("host", ["timm/deit_tiny_patch16_224", "albef"])
def test_two_tensors_for_one_place_must_be_equal(host: str) -> None:
    model = opened("albef")[0] if host == "albef" else build_host(host)
    own = "norm.weight" if "/" in host else "visual_encoder.norm.weight"
    other = "predictor.norm.weight" if "/" in host else None
    if other is None:
        weights = albef_file(model)
        translate = model.released
        model.released = lambda name: translate(own if name == "again" else name)  # type: ignore[method-assign]
        other = "again"
    else:
        weights = {name.removeprefix("vision."): value for name, value in model.state_dict().items()}
    weights[other] = weights[own].clone()
    assert other in load_released(model, weights, "a.pth").loaded
    weights[other] = weights[own] + 1
    refused(model, weights, f"{own} and {other} are both vision.norm.weight, and differ")


def test_a_teacher_beside_its_student_is_not_taken_for_it() -> None:
    model = build_host("timm/deit_tiny_patch16_224")
    state = {name.removeprefix("vision."): value for name, value in model.state_dict().items()}
    both = {f"student.backbone.{name}": value for name, value in state.items()}
    both |= {f"teacher.backbone.{name}": value + 1 for name, value in state.items()}
    refused(model, both, "student.backbone.cls_token and teacher.backbone.cls_token are both vision.cls_token")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensor: tensor.long(), "of int64, where weights are real numbers"),
        (lambda tensor: tensor.to(torch.int8), "of int8, where weights are real numbers"),
        (lambda tensor: tensor.bool(), "of bool, where weights are real numbers"),
        (lambda tensor: tensor.to(torch.complex64), "of complex64, where weights are real numbers"),
        (lambda tensor: tensor.to_sparse(), r"sparse \(torch.sparse_coo\)"),
    ],
)
def test_what_is_no_real_number_is_no_weight(change: Callable[[Tensor], Tensor], reason: str) -> None:
    model = opened("albef")[0]
    weights = albef_file(model)
    weights["visual_encoder.norm.weight"] = change(weights["visual_encoder.norm.weight"])
    refused(model, weights, f"visual_encoder.norm.weight is {reason}")
