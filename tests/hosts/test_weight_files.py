"""Weights as people have them: wrapped, sharded, averaged, beside a config that states the architecture."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from harness.hosts.build import build_host, host_config
from harness.hosts.host import HostModel
from harness.hosts.ready import account
from harness.hosts.weights.load import abilities_in, load_model, stated_sizes
from harness.hosts.weights.own import save_weights
from harness.hosts.weights.released import load_parts
from harness.hosts.weights.released_files import content_digest, passed_over, read_released
from harness.hosts.weights.sets import weights_digest
from harness.kit.errors import HarnessError

SIZES = {"width": 64, "depth": 3, "heads": 1, "image": 32, "patch": 16, "twidth": 32, "tlayers": 2, "theads": 2}
VOCABULARY, LENGTH, PROJECTION = 60, 16, 24


def their_clip(activation: str, depth: int = 3, patch: int = 16, **changes: Any) -> CLIPModel:
    """transformers' CLIP of no published size, its MLPs drawn wide enough that the activation shows."""
    torch.manual_seed(0)
    shared = {"hidden_act": activation}
    text = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "bos_token_id": 1, "eos_token_id": 2}
    vision = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": depth, "num_attention_heads": 1}
    vision |= {"image_size": 32, "patch_size": patch}
    config = CLIPConfig(
        text_config=text | shared | changes, vision_config=vision | shared | changes, projection_dim=PROJECTION
    )
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "mlp.fc" in name and parameter.dim() == 2:
                parameter.mul_(8)
    return model


def in_open_clips_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors as open_clip's CLIP has them."""
    vision, text = "vision_model", "text_model"
    found = {
        "visual.class_embedding": state[f"{vision}.embeddings.class_embedding"],
        "visual.conv1.weight": state[f"{vision}.embeddings.patch_embedding.weight"],
        "visual.positional_embedding": state[f"{vision}.embeddings.position_embedding.weight"],
        "visual.proj": state["visual_projection.weight"].T.contiguous(),
        "token_embedding.weight": state[f"{text}.embeddings.token_embedding.weight"],
        "positional_embedding": state[f"{text}.embeddings.position_embedding.weight"],
        "text_projection": state["text_projection.weight"].T.contiguous(),
        "logit_scale": state["logit_scale"],
    }
    norms = {"visual.ln_pre": f"{vision}.pre_layrnorm", "visual.ln_post": f"{vision}.post_layernorm"}
    norms["ln_final"] = f"{text}.final_layer_norm"
    for here, side in (("visual.", vision), ("", text)):
        for block in range(blocks_of(state, side)):
            ours, theirs = f"{here}transformer.resblocks.{block}", f"{side}.encoder.layers.{block}"
            norms |= {f"{ours}.ln_1": f"{theirs}.layer_norm1", f"{ours}.ln_2": f"{theirs}.layer_norm2"}
            norms |= {f"{ours}.mlp.c_fc": f"{theirs}.mlp.fc1", f"{ours}.mlp.c_proj": f"{theirs}.mlp.fc2"}
            norms[f"{ours}.attn.out_proj"] = f"{theirs}.self_attn.out_proj"
            for kind in ("weight", "bias"):
                parts = [state[f"{theirs}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                found[f"{ours}.attn.in_proj_{kind}"] = torch.cat(parts)
    for ours, theirs in norms.items():
        found |= {f"{ours}.{kind}": state[f"{theirs}.{kind}"] for kind in ("weight", "bias")}
    return found


def blocks_of(state: dict[str, Tensor], side: str) -> int:
    """How many blocks a tower of transformers' CLIP has."""
    return sum(re.fullmatch(rf"{side}\.encoder\.layers\.\d+\.layer_norm1\.bias", name) is not None for name in state)


def open_clip_folder(folder: Path, theirs: CLIPModel, **model: Any) -> Path:
    folder.mkdir()
    torch.save(in_open_clips_names(theirs.state_dict()), folder / "open_clip_pytorch_model.bin")
    sizes = theirs.config.vision_config
    vision = {"image_size": 32, "layers": sizes.num_hidden_layers, "width": 64, "patch_size": sizes.patch_size}
    text = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 32, "heads": 2, "layers": 2}
    config = {"model_cfg": {"embed_dim": PROJECTION, "vision_cfg": vision, "text_cfg": text, **model}}
    config["preprocess_cfg"] = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


def features(host: HostModel, images: Tensor) -> Tensor:
    with torch.no_grad():
        return host.embed_image(host.encode_image(images))


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("form", ["open_clip", "transformers", "shards"])
def test_the_architecture_is_that_of_the_config_beside_the_weights(tmp_path: Path, activation: str, form: str) -> None:
    theirs, images = their_clip(activation), torch.randn(2, 3, 32, 32)
    folder = tmp_path / "clip"
    if form == "open_clip":
        open_clip_folder(folder, theirs, **({"quick_gelu": True} if activation == "quick_gelu" else {}))
    else:
        theirs.save_pretrained(folder, **({"max_shard_size": "60KB"} if form == "shards" else {}))
    with torch.no_grad():
        wanted = F.normalize(theirs.get_image_features(pixel_values=images).pooler_output, dim=-1)
    loaded = load_model("clip-base", folder)
    assert torch.allclose(features(loaded.model, images), wanted, atol=1e-6)
    config = loaded.model.config
    assert (config.activation, config.depth, config.text_layers, config.projection) == (activation, 3, 2, PROJECTION)
    assert (config.vocab_size, config.text_length, config.end_id) == (VOCABULARY, LENGTH, VOCABULARY - 1)
    assert config.mean == ((0.1, 0.2, 0.3) if form == "open_clip" else host_config("clip-base").mean)
    assert loaded.report is not None
    assert "guessed" not in account(loaded.report)
    assert stated_sizes("clip-base", loaded.weights)["depth"] == 3
    other = {"gelu": "quick_gelu", "quick_gelu": "gelu"}[activation]
    kind: Any = type(loaded.model)
    wrong = kind(config.model_copy(update={"activation": other})).eval()
    wrong.load_state_dict(loaded.model.state_dict())
    assert (features(wrong, images) - wanted).norm(dim=-1).mean() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_a_model_of_open_clips_own_program_says_the_same_here(tmp_path: Path, activation: str) -> None:
    torch.manual_seed(0)
    vision = {"image_size": 32, "layers": 3, "width": 64, "patch_size": 16}
    text = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 32, "heads": 2, "layers": 2}
    sizes: dict[str, Any] = {"vision_cfg": vision, "text_cfg": text, "embed_dim": PROJECTION}
    sizes["quick_gelu"] = activation == "quick_gelu"
    theirs = open_clip.model.CLIP(**sizes).eval()
    for parameter in theirs.parameters():
        parameter.normal_(std=0.2)
    save_file(theirs.state_dict(), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": sizes}))
    host: Any = load_model("clip-base", tmp_path).model
    assert host.config.activation == activation
    images, mask = torch.randn(2, 3, 32, 32), torch.arange(LENGTH).expand(2, -1) <= 7
    ids = torch.randint(1, VOCABULARY - 1, mask.shape).masked_fill(~mask, 0)
    ids[:, 7] = VOCABULARY - 1
    torch.testing.assert_close(features(host, images), theirs.encode_image(images, normalize=True), rtol=0, atol=1e-6)
    words = host.embed_text(host.text_batch(ids, mask))
    torch.testing.assert_close(words, theirs.encode_text(ids, normalize=True), rtol=0, atol=1e-6)


def test_the_epsilon_is_the_configs(tmp_path: Path) -> None:
    their_clip("gelu", layer_norm_eps=1e-3).save_pretrained(tmp_path / "clip")
    config = load_model("clip-base", tmp_path / "clip").model.config
    assert (config.vision_eps, config.text_eps) == (1e-3, 1e-3)


def test_what_no_config_says_is_said_to_be_guessed(tmp_path: Path) -> None:
    host = build_host("clip-tiny")
    tensors = {name.replace("vision.", "vision_model.", 1): value for name, value in host.state_dict().items()}
    renamed = {"image_projection": "visual_projection", "words": "text_model.embeddings.token_embedding"}
    renamed |= {"positions": "text_model.embeddings.position_embedding", "text_norm": "text_model.final_layer_norm"}
    found = {}
    for name, value in tensors.items():
        first, _, rest = name.partition(".")
        first = "text_model.encoder.layers" if first == "text" else renamed.get(first, first)
        found[f"{first}.{rest}" if rest else first] = value
    torch.save(found, tmp_path / "alone.pth")
    report = load_model("clip-tiny", tmp_path / "alone.pth").report
    assert report is not None
    assert account(report).endswith("guessed: activation gelu: no config beside the file says it")


@pytest.mark.parametrize(
    ("part", "change", "line"),
    [
        ("vision_cfg", {"timm_model_name": "vit_base_patch16_224"}, "timm_model_name vit_base_patch16_224: only"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, "hf_model_name roberta-base: only"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, "layers [3, 4, 6, 3]: a ResNet, expected a ViT"),
        ("vision_cfg", {"pool_type": "avg"}, "pool_type avg: not CLIP as its paper has it"),
        ("vision_cfg", {"width": 10**9}, "width 1000000000: expected 0 to 16,384"),
        ("vision_cfg", {"width": 10**400}, "width 10000000000000000000…: expected 0 to 16,384"),
        ("vision_cfg", {"width": -64}, "width -64: expected 0 to 16,384"),
        ("vision_cfg", {"mlp_ratio": 4.36}, "mlp_ratio 4.36: expected a whole number"),
        ("vision_cfg", {"head_width": 48}, "width over head_width 1.33333: expected a whole number"),
        ("vision_cfg", {"head_width": 0}, "states no clip-base: "),
        ("vision_cfg", {"mlp_ratio": None}, "states no clip-base: "),
        ("vision_cfg", {"width": "64"}, "states no clip-base: "),
        ("text_cfg", {"vocab_size": None}, "states no clip-base: "),
        ("text_cfg", {"heads": 3}, "state make no clip-base: "),
        ("vision_cfg", "a ViT", "states no clip-base: "),
        ("embed_dim", None, "visual.proj is (64, 24), expected (512, 64)"),
    ],
)
def test_open_clips_of_another_kind_are_one_line(tmp_path: Path, part: str, change: Any, line: str) -> None:
    folder = open_clip_folder(tmp_path / "clip", their_clip("gelu"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"][part] = config["model_cfg"][part] | change if isinstance(change, dict) else change
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(HarnessError, match=re.escape(line)) as caught:
        load_model("clip-base", folder)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    """A tiny ViT's tensors, which `timm_names` reads."""
    torch.manual_seed(0)
    vision = build_host("albef-tiny").vision
    assert isinstance(vision, nn.Module)
    return {name: value.clone() for name, value in vision.state_dict().items()}


def wrapped(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("compiled", lambda plain: {"model": wrapped(plain, "_orig_mod.")}),
        ("compiled under DDP", lambda plain: {"model": wrapped(plain, "module._orig_mod.")}),
        ("DDP", lambda plain: wrapped(plain, "module.")),
        ("Lightning", lambda plain: {"state_dict": wrapped(plain, "model."), "pytorch-lightning_version": "2.0.0"}),
        ("average", lambda plain: {"model_ema": plain, "epoch": 1}),
        ("average of timm", lambda plain: {"state_dict_ema": wrapped(plain, "module."), "epoch": 1}),
        ("torch's AveragedModel", lambda plain: wrapped(plain, "module.") | {"n_averaged": torch.tensor(3)}),
    ],
)
def test_wrappers_are_stripped(tmp_path: Path, released: dict[str, Tensor], name: str, content: Any) -> None:
    torch.save(content(released), tmp_path / "file.pth")
    found = read_released(tmp_path / "file.pth")
    assert found.keys() == released.keys()
    assert all(torch.equal(found[key], released[key]) for key in released)
    host = build_host("albef-tiny")
    load_parts(host, found, "file", "vision")
    assert torch.equal(host.state_dict()["vision.pos_embed"], released["pos_embed"])


def test_a_model_stands_before_its_average(tmp_path: Path, released: dict[str, Tensor]) -> None:
    zeros = {name: torch.zeros_like(value) for name, value in released.items()}
    torch.save({"model": released, "model_ema": zeros}, tmp_path / "both.pth")
    assert torch.equal(read_released(tmp_path / "both.pth")["pos_embed"], released["pos_embed"])
    assert passed_over(tmp_path / "both.pth") == ("model_ema",)
    torch.save({**released, "ema": zeros}, tmp_path / "beside.pth")
    assert torch.equal(read_released(tmp_path / "beside.pth")["pos_embed"], released["pos_embed"])
    assert passed_over(tmp_path / "beside.pth") == ("ema",)


def test_nothing_else_was_passed_over(tmp_path: Path, released: dict[str, Tensor]) -> None:
    for number, content in enumerate(({"model_ema": released}, {"model": released, "ema": {"decay": 0.9}}, released)):
        torch.save(content, tmp_path / f"{number}.pth")
        assert passed_over(tmp_path / f"{number}.pth") == ()


def test_keys_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    torch.save({"weights_of_mine": {"a": torch.zeros(1)}, "epoch": 3}, tmp_path / "file.pth")
    with pytest.raises(HarnessError, match="holds no tensors by name; it has weights_of_mine, epoch; name a file"):
        read_released(tmp_path / "file.pth")


def sharded(folder: Path, tensors: dict[str, Tensor]) -> Path:
    folder.mkdir()
    names, half = list(tensors), len(tensors) // 2
    places = {}
    for number, part in enumerate((names[:half], names[half:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name].contiguous() for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


def test_shards_are_read_by_their_index(tmp_path: Path, released: dict[str, Tensor]) -> None:
    index = sharded(tmp_path / "model", released)
    found = read_released(index)
    assert all(torch.equal(found[name], released[name]) for name in released)
    before = content_digest(index), weights_digest("albef-tiny", index)
    save_file({"other": torch.ones(1)}, index.with_name("model-00002-of-00002.safetensors"))
    assert content_digest(index) != before[0]
    assert weights_digest("albef-tiny", index) != before[1]


def test_one_of_several_shards_and_a_missing_one_are_one_line(tmp_path: Path, released: dict[str, Tensor]) -> None:
    index = sharded(tmp_path / "model", released)
    first = index.with_name("model-00001-of-00002.safetensors")
    with pytest.raises(
        HarnessError, match=r"one of 2 files; name their folder, or its model\.safetensors\.index\.json"
    ):
        read_released(first)
    first.unlink()
    with pytest.raises(HarnessError, match=r"model-00001-of-00002\.safetensors is not beside it; fetch all 2 files"):
        read_released(index)
    index.write_text('{"weight_map": {"a": "../outside.safetensors"}}')
    with pytest.raises(HarnessError, match=r"names '\.\./outside\.safetensors', which is not beside it"):
        read_released(index)
    index.write_text("[]")
    with pytest.raises(HarnessError, match="no index of weights, it has no weight_map"):
        read_released(index)


def test_timm_and_bert_are_taken_from_safetensors_as_from_pth(tmp_path: Path, released: dict[str, Tensor]) -> None:
    for suffix in ("pth", "safetensors"):
        path = tmp_path / f"deit.{suffix}"
        head = {"head.weight": torch.zeros(10, 96), "head.bias": torch.zeros(10)}
        write: Any = save_file if suffix == "safetensors" else torch.save
        write(released | head, path)
        host = build_host("blip-tiny")
        report = load_parts(host, read_released(path), str(path), "vision")
        assert torch.equal(host.state_dict()["vision.pos_embed"], released["pos_embed"])
        assert set(report.left_out) == {"head.weight", "head.bias"}


def test_a_part_is_taken_from_a_whole_model_of_the_same_host(released: dict[str, Tensor]) -> None:
    whole = {f"visual_encoder.{name}": value for name, value in released.items()}
    whole["text_encoder.cls.predictions.bias"] = torch.zeros(157)
    whole["temp"] = torch.tensor(0.05)
    host = build_host("albef-tiny")
    before = host.state_dict()["temperature"].clone()
    report = load_parts(host, whole, "ALBEF.pth", "vision")
    assert torch.equal(host.state_dict()["vision.pos_embed"], released["pos_embed"])
    assert torch.equal(host.state_dict()["temperature"], before)
    assert report.left_out["temp"] == "of another part of the host"


def test_sizes_that_no_model_has_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    host = build_host("albef-tiny")
    for field, value, line in (
        ("depth", 10**9, r"depth 1000000000: expected 0 to 512"),
        ("width", 12288, r"of another model: .*cls_token is \(1, 1, 96\), expected \(1, 1, 12288\)"),
    ):
        config = host.config.model_dump(mode="json") | {field: value}
        save_file(host.state_dict(), path, {"architecture": "albef", "preset": "tiny", "config": json.dumps(config)})
        with pytest.raises(HarnessError, match=line) as caught:
            load_model("albef-tiny", path)
        assert "\n" not in str(caught.value)


def test_a_vocabulary_that_reaches_beyond_the_table_is_refused(tmp_path: Path) -> None:
    save_weights(build_host("albef-tiny", vocab_size=100), tmp_path / "model.safetensors", "albef-tiny")
    with pytest.raises(
        HarnessError, match=r"vocabulary of 157 words, but the weights' table has 100: name the weights'"
    ):
        load_model("albef-tiny", tmp_path)


@pytest.mark.parametrize("kind", ["CLIP", "BLIP"])
@pytest.mark.parametrize(
    "change",
    [
        {"vision_config": "a ViT"},
        {"vision_config": [1]},
        {"vision_config": {"hidden_size": 0}},
        {"vision_config": {"hidden_size": "64"}},
        {"vision_config": {"patch_size": 0}},
        {"vision_config": {"num_attention_heads": 7}},
        {"vision_config": {"intermediate_size": None}},
        {"text_config": {"hidden_size": None}},
        {"text_config": {"num_attention_heads": 0}},
        {"text_config": 3},
    ],
    ids=str,
)
def test_configs_of_odd_values_are_one_line(kind: str, change: dict[str, Any], tmp_path: Path) -> None:
    if kind == "CLIP":
        their_clip("gelu").save_pretrained(tmp_path)
        name = "clip-base"
    else:
        torch.save({"visual_encoder.cls_token": torch.zeros(1, 1, 96)}, tmp_path / "pytorch_model.bin")
        (tmp_path / "config.json").write_text(
            json.dumps({"model_type": "blip", "vision_config": {}, "text_config": {}})
        )
        name = "blip-tiny"
    config = json.loads((tmp_path / "config.json").read_text())
    for part, value in change.items():
        config[part] = config[part] | value if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(config))
    for load in (load_model, abilities_in):
        path = tmp_path / ("model.safetensors" if kind == "CLIP" else "pytorch_model.bin")
        with pytest.raises(HarnessError) as caught:
            load(name, path)
        assert "\n" not in str(caught.value)
        assert any(
            part in str(caught.value) for part in (str(tmp_path), "config beside the weights", f"model {name}: ")
        )
