"""The architecture of ALBEF, BLIP and METER comes from their programs' configs, beside a file or within it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml

from harness.hosts.build import build_host, host_class
from harness.hosts.facts import host_facts
from harness.hosts.ready import account
from harness.hosts.weights.facts import BERT_FILES, WITHIN, Facts
from harness.hosts.weights.load import load_model, stated_beside, stated_sizes
from harness.hosts.weights.released_files import config_within
from harness.hosts.weights.sets import weights_digest
from harness.kit.errors import HarnessError
from tests.hosts.test_released import albef_file

# config_bert.json of ALBEF, its sizes those of a small host.
BERT = {
    "hidden_act": "gelu",
    "hidden_size": 96,
    "intermediate_size": 384,
    "layer_norm_eps": 1e-9,
    "num_attention_heads": 6,
    "num_hidden_layers": 5,
    "fusion_layer": 2,
    "encoder_width": 96,
    "max_position_embeddings": 48,
}


def saved(folder: Path, **beside: Any) -> Path:
    """A file of an ALBEF of random weights as its program saves it, `beside` its tensors within the file."""
    torch.manual_seed(0)
    host = build_host("albef-tiny")
    folder.mkdir(exist_ok=True)
    tensors = {name: value for name, value in albef_file(host).items() if "_m." not in name and "queue" not in name}
    torch.save({"model": tensors, **beside}, folder / "ALBEF.pth")
    return folder / "ALBEF.pth"


def test_an_average_that_is_passed_over_is_named(tmp_path: Path) -> None:
    loaded = load_model("albef-tiny", saved(tmp_path, model_ema={"visual_encoder.cls_token": torch.zeros(1, 1, 96)}))
    assert loaded.report is not None
    assert "; passed over: the tensors in model_ema" in account(loaded.report)
    assert "passed over: the tensors in model_ema" in loaded.report.lines()


def test_albefs_bert_is_that_of_the_config_beside_it(tmp_path: Path) -> None:
    path = saved(tmp_path)
    guessed = load_model("albef-tiny", path)
    assert guessed.report is not None
    said = account(guessed.report)
    assert "guessed: the text side's 3 heads, gelu and epsilon 1e-12: no config beside the file says them" in said
    digest = weights_digest("albef-tiny", path)
    (tmp_path / "config_bert.json").write_text(json.dumps(BERT))
    loaded = load_model("albef-tiny", path)
    assert loaded.report is not None
    assert "guessed" not in account(loaded.report)
    config = loaded.model.config
    assert (config.text_heads, config.text_eps, config.text_layers, config.fusion_layers) == (6, 1e-9, 2, 3)
    assert weights_digest("albef-tiny", path) != digest
    ids, mask = torch.arange(5, 17)[None], torch.ones(1, 12, dtype=torch.bool)
    with torch.no_grad():
        one, other = (each.model.encode_text(ids, mask).states for each in (loaded, guessed))
    assert (one - other).abs().max() > 1e-4, "six heads compute something else than three"


def test_a_checkpoints_own_config_stands_before_one_beside_it(tmp_path: Path) -> None:
    path = saved(tmp_path, config={"image_res": 96, "schedular": {"lr": 1e-4}}, epoch=3)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"image_res": 128, "embed_dim": 96}))
    assert stated_sizes("albef-tiny", path) == {"image_size": 96, "projection": 96}
    assert load_model("albef-tiny", path).model.config.image_size == 96
    assert load_model("albef-tiny", path, image_size=64).model.config.image_size == 64
    assert host_facts("albef-tiny", weights=path).image_size == 96


def test_plans_of_two_folders_are_of_two_architectures(tmp_path: Path) -> None:
    sizes = []
    for resolution in (96, 128):
        path = saved(tmp_path / str(resolution), config={"image_res": resolution})
        sizes.append(host_facts("albef-tiny", weights=path).image_size)
    assert sizes == [96, 128]


def test_settings_within_a_file_are_read_as_lightning_saves_them(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"config": {"num_heads": 4}}}, tmp_path / "last.ckpt")
    assert config_within(tmp_path / "last.ckpt") == {"config": {"num_heads": 4}}
    torch.save({"a": torch.zeros(1)}, tmp_path / "plain.pth", _use_new_zipfile_serialization=False)
    assert config_within(tmp_path / "plain.pth") == {}


def facts(name: str, **configs: Any) -> Facts:
    return host_class(name).stated_facts(name, {key.replace("__", "."): value for key, value in configs.items()})


def test_blips_tower_and_text_side() -> None:
    found = facts(
        "blip-base",
        config__yaml={"vit": "base", "image_size": 384},
        med_config__json={**BERT, "hidden_size": 768, "encoder_width": 768},
    )
    assert found.guessed == ()
    assert {key: found.sizes[key] for key in ("image_size", "depth", "heads", "text_heads", "text_layers")} == {
        "image_size": 384,
        "depth": 12,
        "heads": 12,
        "text_heads": 6,
        "text_layers": 5,
    }
    with pytest.raises(HarnessError, match="1024 channels of images, 768 of text"):
        facts("blip-base", config__yaml={"vit": "large"}, med_config__json={"hidden_size": 768, "encoder_width": 768})
    assert facts("blip-base").guessed[0].startswith("the text side's 12 heads")


def test_meters_settings() -> None:
    settings = {"image_size": 384, "num_heads": 6, "num_top_layer": 3, "vit": "ViT-B/32", "max_text_len": 40}
    wanted = {"image_size": 384, "text_heads": 6, "fusion_layers": 3, "patch_size": 32, "text_length": 40}
    for configs in ({"hparams__yaml": {"config": settings}}, {"config__json": settings}):
        assert facts("meter-base", **configs) == Facts(wanted)
    within = host_class("meter-base").stated_facts("meter-base", {WITHIN: {"config": settings}})
    assert within == Facts(wanted)
    assert facts("meter-base").guessed[0].startswith("12 heads of text and co-attention")


@pytest.mark.parametrize(
    ("name", "configs", "line"),
    [
        ("albef-base", {"config_bert__json": {**BERT, "hidden_act": "relu"}}, "hidden_act relu: only BERT's gelu"),
        ("albef-base", {"config_bert__json": {**BERT, "encoder_width": 24}}, "96 channels, 24 of the image"),
        ("albef-base", {"config_bert__json": BERT, "config__yaml": {"vision_width": 768}}, "96 channels of text, 768"),
        ("blip-base", {"config__yaml": {"vit": "huge"}}, "vit 'huge': expected base or large"),
        ("meter-base", {"config__yaml": {"vit": "swin_base"}}, "vit 'swin_base': only CLIP's ViT-B"),
        ("meter-base", {"config__yaml": {"input_text_embed_size": 1024}}, "input_text_embed_size 1024: expected"),
    ],
)
def test_what_is_no_model_of_this_kind_is_one_line(name: str, configs: dict[str, Any], line: str) -> None:
    with pytest.raises(HarnessError, match=re.escape(line)) as caught:
        facts(name, **configs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["config.yaml", *BERT_FILES])
def test_a_config_that_is_none_is_one_line(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text("[1, 2]")
    (tmp_path / "ALBEF.pth").touch()
    with pytest.raises(HarnessError, match=f"{file}: expected a .+; save or fetch"):
        stated_beside("albef-base", tmp_path / "ALBEF.pth")


def test_transformers_blip_is_read_with_the_sizes_of_its_config(tmp_path: Path) -> None:
    """The default of transformers' config for the text side is 8 heads, of its ViT an epsilon of 1e-5."""
    torch.manual_seed(0)
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "encoder_hidden_size": 64}
    text |= {"max_position_embeddings": 32}
    vision = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision |= {"image_size": 32, "patch_size": 16}
    config = transformers.BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=24)
    theirs = transformers.BlipForImageTextRetrieval(config).eval()
    theirs.save_pretrained(tmp_path / "blip")
    loaded = load_model("blip-base", tmp_path / "blip")
    sizes = loaded.model.config
    assert (sizes.text_heads, sizes.heads, sizes.depth, sizes.vision_eps, sizes.projection) == (8, 4, 3, 1e-5, 24)
    assert loaded.report is not None
    assert "guessed" not in account(loaded.report)
    images, ids = torch.randn(2, 3, 32, 32), torch.randint(1000, 2000, (2, 9))
    ids[:, 0] = sizes.cls_id
    with torch.no_grad():
        image = loaded.model.encode_image(images)
        texts = loaded.model.text_batch(ids, torch.ones_like(ids))
        ours = loaded.model.embed_image(image) @ loaded.model.embed_text(texts).T
        wanted = theirs(input_ids=ids, pixel_values=images, use_itm_head=False).itm_score
    assert torch.allclose(ours, wanted, atol=1e-5)
