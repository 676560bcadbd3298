"""Facts about weights on disk: they come back as they went, and bad files are named in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import BlipConfig as TheirBlipConfig
from transformers import BlipForImageTextRetrieval, CLIPConfig, CLIPModel, PreTrainedModel

from harness.data.scene_text import ANSWERS
from harness.hosts.albef.model import Albef
from harness.hosts.build import build_host
from harness.hosts.weights.find import assets_of, find_weights, weights_file
from harness.hosts.weights.load import load_model, read_answers
from harness.hosts.weights.own import read_weights, save_weights, tensors_digest
from harness.kit.errors import HarnessError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Albef, Path, str]:
    torch.manual_seed(3)
    model = build_host("albef-tiny")
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    return model, path, save_weights(model, path, "albef-tiny")


def test_weights_come_back_in_float32_rounded_to_float16(saved: tuple[Albef, Path, str]) -> None:
    model, path, digest = saved
    loaded = load_model("albef-tiny", path)
    assert loaded.weights_digest == digest
    assert not loaded.model.training
    for key, value in loaded.model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, model.state_dict()[key].half().float())


def test_metadata_names_the_model(saved: tuple[Albef, Path, str]) -> None:
    metadata = read_weights(saved[1])[1]
    assert (metadata["architecture"], metadata["preset"], metadata["sha256"]) == ("albef", "tiny", saved[2])


def test_the_digest_sees_every_bit_and_no_order() -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.zeros(2)}
    assert tensors_digest(tensors) == tensors_digest(dict(reversed(tensors.items())))
    assert tensors_digest(tensors) != tensors_digest(tensors | {"b": torch.tensor([0.0, 1e-30])})
    assert tensors_digest(tensors) != tensors_digest(tensors | {"b": torch.zeros(2, 1)})


def test_shipped_weights_load_and_fit_the_package() -> None:
    loaded = load_model("albef-tiny")
    assert loaded.answers == ANSWERS == read_answers(assets_of("albef-tiny"))
    assert weights_file("albef-tiny").stat().st_size <= 8_000_000
    assert loaded.weights_digest == read_weights(loaded.weights)[1]["sha256"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"absent.safetensors: no such file"):
        load_model("albef-tiny", tmp_path / "absent.safetensors")


@pytest.mark.parametrize("kept", [0, 4, 1000, -1000])
def test_a_truncated_file_is_named(tmp_path: Path, saved: tuple[Albef, Path, str], kept: int) -> None:
    path = tmp_path / "short.safetensors"
    path.write_bytes(saved[1].read_bytes()[:kept])
    with pytest.raises(HarnessError, match="not a whole safetensors file") as caught:
        load_model("albef-tiny", path)
    assert "\n" not in str(caught.value)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are no weights" * 100)
    with pytest.raises(HarnessError, match="not a whole safetensors file"):
        load_model("albef-tiny", path)


def test_weights_of_another_model_are_named_by_their_first_differences(
    tmp_path: Path, saved: tuple[Albef, Path, str]
) -> None:
    tensors = dict(read_weights(saved[1])[0])
    tensors["temperature"] = torch.zeros(2)
    tensors["stranger"] = tensors.pop("match_head.bias")
    save_file(tensors, tmp_path / "other.safetensors")
    expected = r"lacks match_head.bias; has unknown stranger; temperature is \(2,\), expected \(\)"
    with pytest.raises(HarnessError, match=expected):
        load_model("albef-tiny", tmp_path / "other.safetensors")


def test_many_differences_are_counted(tmp_path: Path) -> None:
    save_file({"vision.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(HarnessError, match=r"of another model: .* and \d+ more$"):
        load_model("albef-tiny", tmp_path / "other.safetensors")
    save_file({"weight": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(HarnessError, match=r"not of Albef of this size: it holds weight; name weights of this model"):
        load_model("albef-tiny", tmp_path / "foreign.safetensors")


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(HarnessError, match=r"'albef-huge'.*albef-tiny"):
        load_model("albef-huge")


def test_a_place_that_cannot_be_written_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HarnessError, match="cannot be written"):
        save_weights(build_host("albef-tiny"), tmp_path / "file" / "model.safetensors", "albef-tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def resized(table_1ND: torch.Tensor, side: int) -> torch.Tensor:
    """Positions (1, 1 + n, D) on a grid of another side, as ALBEF's models/vit.py, interpolate_pos_embed."""
    width, before = table_1ND.shape[-1], round((table_1ND.shape[1] - 1) ** 0.5)
    grid = table_1ND[:, 1:].reshape(1, before, before, width).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([table_1ND[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


@pytest.mark.parametrize(("image_size", "side"), [(96, 12), (32, 4)])
def test_positions_of_our_own_file_are_interpolated(saved: tuple[Albef, Path, str], image_size: int, side: int) -> None:
    dense, other = load_model("albef-tiny", saved[1]).model, load_model("albef-tiny", saved[1], image_size).model
    assert other.config.image_size == image_size
    before, after = dense.state_dict(), other.state_dict()
    expected = resized(before.pop("vision.pos_embed"), side)
    torch.testing.assert_close(after.pop("vision.pos_embed"), expected, rtol=0, atol=1e-6)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert other.encode_image(torch.zeros(1, 3, image_size, image_size)).states.shape[1] == 1 + side**2


def test_positions_at_the_same_resolution_stay_bit_for_bit(saved: tuple[Albef, Path, str]) -> None:
    table = load_model("albef-tiny", saved[1], 64).model.state_dict()["vision.pos_embed"]
    assert torch.equal(table, load_model("albef-tiny", saved[1]).model.state_dict()["vision.pos_embed"])


def test_a_resolution_that_the_patches_do_not_divide_is_refused(saved: tuple[Albef, Path, str]) -> None:
    with pytest.raises(HarnessError, match="image size 60: expected a multiple of the patch size 8"):
        load_model("albef-tiny", saved[1], 60)


def test_sizes_stated_in_the_metadata_are_used(tmp_path: Path) -> None:
    model = build_host("albef-tiny", image_size=32, depth=3, projection=8)
    save_weights(model, tmp_path / "small.safetensors", "albef-tiny", torch.float32)
    loaded = load_model("albef-tiny", tmp_path / "small.safetensors")
    assert loaded.model.config == model.config
    assert loaded.report is None
    assert all(torch.equal(value, loaded.model.state_dict()[key]) for key, value in model.state_dict().items())


def test_our_own_file_of_another_architecture_is_refused(saved: tuple[Albef, Path, str]) -> None:
    for name in ("blip-tiny", "meter-tiny", "clip-tiny"):
        with pytest.raises(HarnessError, match=f"of albef-tiny, not of {name}; name its own") as caught:
            load_model(name, saved[1])
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"config": "{}"}, "states no architecture"),
        ({"config": "{", "architecture": "albef"}, "states its sizes in no JSON object"),
        ({"config": "3", "architecture": "albef"}, "states its sizes in no JSON object"),
        ({"config": '{"depth": "many"}', "architecture": "albef"}, "depth"),
    ],
)
def test_metadata_that_cannot_be_is_refused(
    tmp_path: Path, saved: tuple[Albef, Path, str], metadata: dict[str, str], reason: str
) -> None:
    save_file(read_weights(saved[1])[0], tmp_path / "odd.safetensors", metadata)
    with pytest.raises(HarnessError, match=reason) as caught:
        load_model("albef-tiny", tmp_path / "odd.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["clip-base", "meter-tiny", "albef-base"])
def test_a_host_without_shipped_weights_says_so(name: str) -> None:
    expected = rf"model {name}: no weights ship with it \(they do with .*albef-tiny.*\); name some with --weights"
    with pytest.raises(HarnessError, match=expected):
        load_model(name)


def test_a_folder_that_training_wrote_is_loaded(tmp_path: Path, saved: tuple[Albef, Path, str]) -> None:
    (tmp_path / "model.safetensors").write_bytes(saved[1].read_bytes())
    (tmp_path / "config.json").write_text('{"answers": ["yes", "no"]}')
    loaded = load_model("albef-tiny", tmp_path)
    assert (loaded.answers, loaded.weights) == (("yes", "no"), tmp_path / "model.safetensors")


@pytest.mark.parametrize("content", ["[1]", "{", "3"])
def test_a_config_that_is_no_object_is_named(tmp_path: Path, saved: tuple[Albef, Path, str], content: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(saved[1].read_bytes())
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(HarnessError, match=r"config.json: (expected a JSON object|not valid JSON)"):
        load_model("albef-tiny", tmp_path)


VISION = {
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 3,
    "image_size": 64,
    "patch_size": 8,
}


def their_clip(activation: str = "gelu") -> CLIPModel:
    """transformers' CLIP in the sizes of clip-tiny."""
    text = {
        "hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "vocab_size": 157,
        "max_position_embeddings": 48,
    }
    act = {"hidden_act": activation}
    return CLIPModel(CLIPConfig(text_config={**text, **act}, vision_config={**VISION, **act}, projection_dim=96)).eval()


def their_blip() -> BlipForImageTextRetrieval:
    """transformers' BLIP in the sizes of blip-tiny, but for 41 words."""
    text = {
        "hidden_size": 96,
        "encoder_hidden_size": 96,
        "intermediate_size": 384,
        "num_hidden_layers": 5,
        "num_attention_heads": 3,
        "vocab_size": 41,
        "max_position_embeddings": 48,
    }
    config = TheirBlipConfig(text_config=text, vision_config=VISION, image_text_hidden_size=96)
    return BlipForImageTextRetrieval(config).eval()


def write_bin(model: PreTrainedModel, folder: Path) -> None:
    """A folder as transformers wrote it before safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(model.config.to_dict(), default=str))


@pytest.fixture
def any_tokenizer() -> str:
    """A vocabulary in place of those that would come from the Hugging Face cache."""
    return str(assets_of("albef-tiny") / "vocab.txt")


@torch.no_grad()
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_folder_of_transformers_clip_loads(tmp_path: Path, any_tokenizer: str, form: str) -> None:
    theirs = their_clip()
    if form == "bin":
        write_bin(theirs, tmp_path)
    else:
        theirs.save_pretrained(tmp_path)
    loaded = load_model("clip-tiny", tmp_path, tokenizer=any_tokenizer)
    assert loaded.report is not None
    assert not loaded.report.missing
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    expected = F.normalize(theirs.get_image_features(pixel_values=images).pooler_output, dim=-1)
    ours: Any = loaded.model
    torch.testing.assert_close(ours.embed_image(ours.encode_image(images)), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_activation_is_the_one_that_their_config_states(tmp_path: Path, any_tokenizer: str) -> None:
    for activation in ("quick_gelu", "gelu"):
        their_clip(activation).save_pretrained(tmp_path / activation)
        loaded = load_model("clip-tiny", tmp_path / activation, tokenizer=any_tokenizer)
        assert loaded.model.config.activation == activation


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_folder_of_transformers_blip_loads(tmp_path: Path, any_tokenizer: str, form: str) -> None:
    theirs = their_blip()
    if form == "bin":
        write_bin(theirs, tmp_path)
    else:
        theirs.save_pretrained(tmp_path)
    with pytest.raises(HarnessError, match="vocabulary of 157 words, but the weights' table has 41: name the weights'"):
        load_model("blip-tiny", tmp_path, 96, any_tokenizer)
    words = Path(any_tokenizer).read_text(encoding="utf-8").splitlines()[:41]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    loaded = load_model("blip-tiny", tmp_path, 96)
    assert loaded.report is not None
    assert loaded.model.config.vocab_size == 41
    assert loaded.report.resized == ["vision.pos_embed (1, 65, 96) -> (1, 145, 96)"]
    held = theirs.state_dict()
    assert set(loaded.report.loaded) | set(loaded.report.left_out) == set(held)
    found = loaded.model.state_dict()
    expected = resized(held["vision_model.embeddings.position_embedding"], 12)
    torch.testing.assert_close(found["vision.pos_embed"], expected, rtol=0, atol=1e-6)
    assert torch.equal(found["match_head.weight"], held["itm_head.weight"])


def test_a_folder_of_another_architecture_is_refused(tmp_path: Path, any_tokenizer: str) -> None:
    their_clip().save_pretrained(tmp_path)
    for name, kind in (("blip-tiny", "Blip"), ("albef-tiny", "Albef"), ("meter-tiny", "Meter")):
        with pytest.raises(HarnessError, match=f"not of {kind} of this size: it holds ") as caught:
            load_model(name, tmp_path, tokenizer=any_tokenizer)
        assert "\n" not in str(caught.value)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"no model.safetensors or pytorch_model.bin in this folder; name a file"):
        load_model("albef-tiny", tmp_path)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def snapshot(cache: Path, name: str) -> Path:
    """The folder of a name's only version in the cache."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0123456789abcdef")
    return home / "snapshots" / "0123456789abcdef"


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_name_in_the_cache_is_loaded_from_it(cache: Path, any_tokenizer: str, form: str) -> None:
    folder = snapshot(cache, "someone/clip")
    if form == "bin":
        write_bin(their_clip(), folder)
    else:
        their_clip().save_pretrained(folder)
    loaded = load_model("clip-tiny", Path("someone/clip"), tokenizer=any_tokenizer)
    assert loaded.weights.parent == folder
    assert loaded.report is not None


def test_a_name_absent_from_the_cache_says_how_to_get_it(cache: Path) -> None:
    expected = r"weights Salesforce/blip-itm-base-coco: no such file or folder, and not in the Hugging Face cache; "
    expected += (
        r"run `hf download Salesforce/blip-itm-base-coco` where .* with --download\), or name a local file or folder"
    )
    with pytest.raises(HarnessError, match=expected) as caught:
        load_model("blip-base", "Salesforce/blip-itm-base-coco")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent.safetensors", "runs/absent.pth", "../absent", "/absent/here", "a/b/c"])
def test_what_is_no_name_of_the_hub_is_a_missing_file(cache: Path, name: str) -> None:
    assert find_weights(name) == Path(name)
    with pytest.raises(HarnessError, match="no such file; name a file of weights with --weights"):
        load_model("albef-tiny", name)
