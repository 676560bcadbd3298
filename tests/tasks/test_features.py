"""Features of a plain ViT, measured from the command line by name and file, or by a folder of transformers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from torch.nn import functional as F

from harness.cli.main import main
from harness.data.image_store import ImageStore
from harness.data.transforms import load_images
from harness.evaluate.task import Outcome, TaskData
from harness.evaluate.timing import Throughput
from harness.hosts.build import host_config
from harness.hosts.ready import load_host
from harness.hosts.weights.load import load_model
from harness.kit.errors import HarnessError
from harness.tasks.features import Features, neighbours, vote
from tests.hosts.small_towers import SIZES, drawn

COLOURS = ("blue", "green", "red")


def picture(path: Path, colour: int, number: int) -> None:
    source = np.random.default_rng(10 * number + colour)
    pixels = source.integers(0, 60, (48, 48, 3), dtype=np.uint8)
    pixels[..., 2 - colour] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that differ by colour, seven images each, in train/ and test/."""
    folder = tmp_path_factory.mktemp("classes")
    for split in ("train", "test"):
        for colour, name in enumerate(COLOURS):
            for number in range(7):
                picture(folder / split / name / f"{number}.png", colour, number + 100 * (split == "test"))
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DINOv2 as transformers saves it."""
    folder = tmp_path_factory.mktemp("dinov2")
    sizes = {name: value for name, value in SIZES.items() if name != "intermediate_size"} | {"mlp_ratio": 2}
    model = drawn(lambda: transformers.Dinov2Model(transformers.Dinov2Config(**sizes, use_mask_token=True)))
    model.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Done:
    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Call the command line, latencies taken from five short runs."""
    from harness.cost.latency import measure_latency

    monkeypatch.setattr("harness.cost.report.measure_latency", partial(measure_latency, runs=5, seconds=0.0))

    def call(*words: str) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main([*words, "--quiet"])
        return Done(int(caught.value.code or 0), *capsys.readouterr())

    return call


def test_a_folder_of_transformers_is_measured_by_one_command(
    run: Any, classes: Path, saved: Path, tmp_path: Path
) -> None:
    asked = ["run", "--model", f"transformers/{saved}", "--tasks", "features"]
    asked += ["--data", str(classes), "--method", "tome,evit", "--ratios", "1.0,0.5", "--out", str(tmp_path), "--json"]
    done = run(*asked, "--set-task", "features.linear=true", "--set-task", "features.k=3")
    assert done.exit_code == 0, done.stderr
    records = {(one["spec"]["method"], one["spec"]["ratio"]): one for one in json.loads(done.stdout)}
    assert set(records) == {("dense", 1.0), ("tome", 1.0), ("tome", 0.5), ("evit", 1.0), ("evit", 0.5)}
    for key, record in records.items():
        quality = {name: found["value"] for name, found in record["quality"]["features"].items()}
        assert set(quality) == {"cosine", "nearest", "neighbours", "knn", "linear"}
        if key[1] == 1.0:
            assert quality["cosine"] == pytest.approx(1.0, abs=1e-6)
            assert (quality["nearest"], quality["neighbours"]) == (1.0, 1.0)
        assert record["diagnostics"]["knn"] == "train/"
    assert records["evit", 0.5]["quality"]["features"]["cosine"]["value"] < 1 - 1e-6
    assert records["tome", 0.5]["cost"]["ratio"] == pytest.approx(0.5, abs=0.01)
    assert records["dense", 1.0]["quality"]["features"]["knn"]["value"] > 0.6


def test_a_timm_name_and_a_file_of_ones_own_are_measured_by_one_command(
    run: Any, classes: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224").eval()
    torch.save(
        {"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, tmp_path / "a.pth"
    )
    asked = ["--model", "timm/vit_tiny_patch16_224", "--weights", str(tmp_path / "a.pth"), "--tasks", "features"]
    shutil.copytree(classes / "test", tmp_path / "alone")  # without train/ beside it
    asked += ["--data", str(tmp_path / "alone"), "--method", "tome", "--ratios", "0.5", "--image-size", "48"]
    done = run("run", *asked, "--out", str(tmp_path / "runs"), "--json")
    assert done.exit_code == 0, done.stderr
    record = next(one for one in json.loads(done.stdout) if one["spec"]["method"] == "tome")
    assert record["diagnostics"]["knn"] == "leave one out"
    assert record["spec"]["image_size"] == 48
    planned = run("plan", *asked, "--out", str(tmp_path / "runs"))
    assert "2 cells, 0 to run" in planned.stdout


def test_features_are_the_towers_own(classes: Path, saved: Path) -> None:
    host = load_host(f"transformers/{saved}", saved, "cpu", "float32", warn=lambda line: None)
    theirs = transformers.Dinov2Model.from_pretrained(saved).eval()
    paths = sorted((classes / "test" / "red").glob("*.png"))
    config = host.model.config
    images = load_images(paths, config.image_size, config.mean, config.std)
    with torch.no_grad():
        ours = host.model.features(host.model.encode_image(images))
        assert torch.equal(ours, theirs(images).pooler_output)
    assert config.mean == (0.485, 0.456, 0.406)


def test_the_text_side_of_a_clip_is_left_out(tmp_path: Path) -> None:
    text = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": 50, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    model = drawn(lambda: transformers.CLIPModel(transformers.CLIPConfig(vision_config=SIZES, text_config=text)))
    model.save_pretrained(tmp_path)
    loaded = load_model(f"transformers/{tmp_path}", tmp_path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours = loaded.model.features(loaded.model.encode_image(images))
        wanted = model.vision_model(images).pooler_output
    assert torch.equal(ours, wanted)
    assert loaded.report is not None
    assert not loaded.report.missing


def test_a_classifier_without_pooler_stands_by_its_class_token(tmp_path: Path) -> None:
    model = drawn(lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**SIZES, num_labels=5)))
    model.save_pretrained(tmp_path)
    loaded = load_model(f"transformers/{tmp_path}", tmp_path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours = loaded.model.features(loaded.model.encode_image(images))
        assert torch.equal(ours, model.vit(images).last_hidden_state[:, 0])
    assert loaded.report is not None
    assert set(loaded.report.reasons.values()) == {"the file holds no pooler: the class token stands for the image"}
    assert loaded.model.config.mean == (0.5, 0.5, 0.5)


def test_any_host_has_features_and_plain_images_have_no_classes(run: Any, tmp_path: Path) -> None:
    images = tmp_path / "images"
    for number in range(4):
        picture(images / f"{number}.png", number % 3, number)
    asked = ["run", "--model", "clip-tiny", "--tasks", "features", "--data", str(images), "--method", "tome"]
    done = run(*asked, "--ratios", "0.7", "--out", str(tmp_path / "runs"), "--json", "--weights", weights(tmp_path))
    assert done.exit_code == 0, done.stderr
    assert set(json.loads(done.stdout)[0]["quality"]["features"]) == {"cosine", "nearest", "neighbours"}
    refused = Features().load
    with pytest.raises(HarnessError, match="plain images have no split 'test'"):
        refused(images, None, "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(HarnessError, match="holds no images"):
        refused(tmp_path / "empty", None)
    assert len(refused(images, 3).images) == 3


def weights(folder: Path) -> str:
    """A CLIP without a tokenizer: features want none."""
    from harness.hosts.build import build_host
    from harness.hosts.weights.own import save_weights

    save_weights(build_host("clip-tiny"), folder / "clip" / "model.safetensors", "clip-tiny")
    return str(folder / "clip")


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("timm/vit_tiny_patch16", "unknown model 'vit_tiny_patch16': did you mean"),
        ("timm/resnet18", "model resnet18 is a ResNet: expected a timm VisionTransformer, Eva or Beit"),
        ("timm/vit_tiny_patch16_224", "no weights ship with it"),
        ("transformers/nowhere", "model nowhere: no config.json in it; name a folder that transformers has saved"),
    ],
)
def test_what_cannot_be_measured_is_one_line(run: Any, classes: Path, tmp_path: Path, model: str, line: str) -> None:
    asked = ["run", "--model", model, "--tasks", "features", "--data", str(classes), "--method", "tome"]
    done = run(*asked, "--out", str(tmp_path))
    assert done.exit_code == 2
    assert line in done.stderr
    assert "Traceback" not in done.stderr


def test_code_in_a_folder_is_neither_asked_about_nor_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}))
    with pytest.raises(HarnessError, match=r"its config\.json builds no model"):
        host_config(f"transformers/{tmp_path}")
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}})
    )
    from harness.hosts.parts.tokenizer import HubTokenizer

    capsys.readouterr()
    with pytest.raises(HarnessError, match="this folder holds none that can be read") as refused:
        HubTokenizer(str(tmp_path), 16)
    assert "needs code that comes with it, which is never run" in str(refused.value)
    assert capsys.readouterr().err == ""
    assert not ran.exists()


@pytest.mark.parametrize("command", ["run", "plan", "evaluate"])
def test_a_vit_alone_is_said_to_do_features_before_anything_else(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [command, "--model", "timm/vit_tiny_patch16_224", "--weights", str(tmp_path / "none.pth"), "--tasks", "vqa"]
    with pytest.raises(SystemExit) as ended:
        main([*words, *(("--method", "tome") if command != "evaluate" else ())])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: vqa: timm/vit_tiny_patch16_224 is a ViT alone")
    assert "--tasks features" in line


def test_neighbours_and_votes_by_hand() -> None:
    known = F.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), dim=-1)
    cosines, places = neighbours(known, known, 3, own=True)
    assert places.tolist() == [[1, 3], [0, 3], [3, 1], [2, 1]]
    labels = torch.tensor([0, 0, 1, 1])
    assert vote(cosines, labels[places], 2).tolist() == [0, 0, 1, 1]
    _, others = neighbours(known[:1], known, 2, own=False)
    assert others.tolist() == [[0, 1]]


def test_a_config_of_fewer_layers_than_the_weights_is_refused(tmp_path: Path) -> None:
    for kind, config in (("ViTModel", "ViTConfig"), ("CLIPVisionModel", "CLIPVisionConfig")):
        folder = tmp_path / kind
        drawn(
            lambda kind=kind, config=config: getattr(transformers, kind)(getattr(transformers, config)(**SIZES))
        ).save_pretrained(folder)
        stated = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(stated | {"num_hidden_layers": 6}))
        with pytest.raises(
            HarnessError, match=r"which the model of its config\.json has not: they are of another size"
        ):
            load_model(f"transformers/{folder}", folder)


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": 0},
        {"patch_size": None},
        {"hidden_size": "24"},
        {"hidden_size": None},
        {"num_attention_heads": 7},
        {"num_attention_heads": 0},
        {"num_hidden_layers": -1},
        {"image_size": "64"},
        {"hidden_act": "gelo"},
        {"hidden_dropout_prob": 7},
        {"model_type": None},
    ],
    ids=str,
)
def test_a_config_of_odd_values_is_one_line(change: dict[str, Any], tmp_path: Path) -> None:
    drawn(lambda: transformers.ViTModel(transformers.ViTConfig(**SIZES))).save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stated | change))
    with pytest.raises(HarnessError) as caught:
        load_model(f"transformers/{tmp_path}", tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("std", [[0, 0, 0], [0.5, -0.5, 0.5], [0.5, 0.5], "half", [0.5, None, 0.5]], ids=str)
def test_a_deviation_that_no_pixels_have_is_one_line(std: Any, tmp_path: Path) -> None:
    drawn(lambda: transformers.ViTModel(transformers.ViTConfig(**SIZES))).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": std}))
    with pytest.raises(HarnessError, match="std") as caught:
        load_model(f"transformers/{tmp_path}", tmp_path)
    assert "\n" not in str(caught.value)


def test_images_whose_names_are_no_utf8_are_measured_and_named(tmp_path: Path) -> None:
    for number, name in enumerate((b"a.jpg", b"caf\xe9.jpg")):
        Image.new("RGB", (32, 32), (number, 90, 30)).save(tmp_path / os.fsdecode(name), "JPEG")
    found = Features().load(tmp_path, None)
    assert TaskData(found, ImageStore.of(torch.zeros(2, 3, 32, 32))).names == ["a.jpg", "caf\\udce9.jpg"]
    odd = os.fsdecode(b"\xff")
    outcome = Outcome("features", {"cosine": ([odd], [odd], np.ones(1))}, Throughput("images", 1, 1.0, 0.0, 0.0, 0.0))
    assert outcome.frame()["sample"].tolist() == ["\\udcff"]
