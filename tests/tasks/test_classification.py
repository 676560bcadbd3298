"""Classification: zero-shot figures are those of each image and sentence alone; the probe learns from train/ only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from harness.data.formats import ImageTextSet
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.linear_probe import fit_probe
from harness.kit.errors import HarnessError
from harness.metrics.stats import quality
from harness.reduction import Tokens, encode
from harness.tasks.classification import Classification, ClassificationOptions, accuracies
from harness.tasks.features import Features, FeaturesOptions
from tests.tasks.small_hosts import by_sample, encoder_of, measured, noise, small_host, turned

HOSTS = ("albef", "blip", "clip")
CLASSES = ("ring", "square", "moon", "red_moon", "blue", "green_ring", "top")
TEMPLATES = ("a {} left", "the {}", "right of the {} ring")
# Images of each class: sizes differ, so that the mean per class is not plain accuracy.
SIZES = (1, 2, 3, 1, 2, 4, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven classes in train/ and test/, with templates."""
    root = tmp_path_factory.mktemp("classes")
    for number, (name, size) in enumerate(zip(CLASSES, SIZES, strict=True)):
        for image in range(size):
            noise(root / "test" / name / f"{image}.png", 10 * number + image)
        for image in range(2):
            noise(root / "train" / name / f"{image}.png", 100 + 10 * number + image)
    (root / "templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    return root


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes that differ in colour alone; the images of test/ are not those of train/."""
    root = tmp_path_factory.mktemp("colours")
    for channel, name in enumerate(("red", "green", "blue")):
        for image in range(9):
            pixels = np.random.default_rng(10 * channel + image).integers(0, 90, (32, 32, 3), dtype=np.uint8)
            pixels[..., channel] += 120
            path = root / ("test" if image < 3 else "train") / name / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return root


def tokens_alone(encoder: VisionEncoder, pixels: Tensor) -> Tokens:
    return encode(encoder.tower, encoder.reducer, pixels[None].double())


@torch.no_grad()
def ranks_alone(encoder: VisionEncoder, annotations: ImageTextSet) -> dict[str, int]:
    """The rank of each image's class, from one image and one sentence at a time."""
    host = encoder.host
    classes = []
    for name in annotations.classes:
        texts = [host.model.text_batch(*host.tokenizer([line.format(name)])) for line in TEMPLATES]
        mean = torch.stack([host.model.embed_text(text)[0] for text in texts]).mean(0)
        classes.append(mean / mean.norm())
    found = {}
    for one, pixels in zip(annotations.classified, encoder.images[:], strict=True):
        feature = host.model.embed_image(tokens_alone(encoder, pixels))[0]
        scores = [float(feature @ other) for other in classes]
        found[one.id] = sorted(range(len(classes)), key=lambda label: (-scores[label], label)).index(one.label)
    return found


@pytest.mark.parametrize("method", ["dense", "evit"])
@pytest.mark.parametrize("family", HOSTS)
def test_zero_shot_figures_are_those_of_each_image_alone(folder: Path, family: str, method: str) -> None:
    annotations = Classification().load(folder, None)
    encoder = encoder_of(small_host(family), annotations, method)
    ranks = ranks_alone(encoder, annotations)
    assert len(set(ranks.values())) > 2
    outcome = measured(Classification(), encoder, annotations)
    found = by_sample(outcome)
    assert len(ranks) == 14
    assert found["top1"] == {sample: float(rank < 1) for sample, rank in ranks.items()}
    assert found["top5"] == {sample: float(rank < 5) for sample, rank in ranks.items()}
    by_class = [
        np.mean([ranks[one.id] == 0 for one in annotations.classified if one.label == label]) for label in range(7)
    ]
    assert np.mean(list(found["mean_per_class"].values())) == pytest.approx(np.mean(by_class))
    assert list(outcome.outcomes) == ["top1", "top5", "mean_per_class"]
    assert outcome.diagnostics == {"classes": 7, "templates": list(TEMPLATES)}


def test_top_five_and_the_mean_per_class_by_hand() -> None:
    """Of class 0 one of three is first, of class 1 both: (1/3 + 1) / 2 where plain accuracy is 3/5."""
    found = accuracies(np.array([0, 4, 5, 0, 0]), np.array([0, 0, 0, 1, 1]))
    assert found["top1"].tolist() == [1, 0, 0, 1, 1]
    assert found["top5"].tolist() == [1, 1, 0, 1, 1]
    assert found["mean_per_class"].mean() == pytest.approx(2 / 3)


@pytest.mark.parametrize("method", ["dense", "evit"])
def test_neither_batch_size_nor_order_changes_a_figure(folder: Path, method: str) -> None:
    annotations = Classification().load(folder, None)
    other = replace(annotations, images=turned(annotations.images), classified=turned(annotations.classified))
    host = small_host("clip")
    found = [
        by_sample(measured(Classification(), encoder_of(host, each, method, size), each, probe=True))
        for each, size in ((annotations, 1), (annotations, 5), (annotations, 14), (other, 4))
    ]
    assert set(found[0]) == {one.name for one in Classification.quantities}
    for again in found[1:]:
        for metric, values in found[0].items():
            assert again[metric] == pytest.approx(values, abs=1e-12)


def test_a_text_guided_method_falls_back(folder: Path) -> None:
    """No sentence belongs to an image here: ELIP keeps all tokens, and the figures are dense's."""
    annotations = Classification().load(folder, None)
    dense, elip = (
        measured(Classification(), encoder_of(small_host("albef"), annotations, method), annotations, probe=True)
        for method in ("dense", "elip")
    )
    assert by_sample(dense) == by_sample(elip)


def test_templates_are_those_asked_for_then_the_sets_then_the_papers(folder: Path) -> None:
    annotations = Classification().load(folder, None)
    host = small_host("blip")

    def used(data: ImageTextSet, **options: object) -> list[str]:
        templates: list[str] = measured(Classification(), encoder_of(host, data), data, **options).diagnostics[
            "templates"
        ]
        return templates

    assert used(annotations, templates=["my {}"]) == ["my {}"]
    assert used(annotations) == list(TEMPLATES)
    assert used(replace(annotations, templates=())) == ["a photo of a {}."]
    with pytest.raises(ValidationError, match=r"'my' has no \{\} where the name of a class goes"):
        ClassificationOptions(templates=("my",))


@pytest.mark.parametrize("family", HOSTS)
def test_the_probe_tells_colours_apart(colours: Path, family: str) -> None:
    annotations = Classification().load(colours, None)
    outcome = measured(Classification(), encoder_of(small_host(family), annotations), annotations, probe=True)
    found = by_sample(outcome)
    assert set(found["probe_top1"].values()) == {1}
    assert set(found["probe_mean_per_class"].values()) == {1}
    assert set(found["top1"].values()) == {0, 1}
    assert outcome.diagnostics["probe"]["train_images"] == 18
    assert outcome.diagnostics["probe"]["train_accuracy"] == 1
    assert outcome.diagnostics["probe"]["gradient"] < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("method", ["dense", "evit"])
@pytest.mark.parametrize("family", ["albef", "clip"])
def test_the_probe_rests_on_class_tokens_under_the_method(folder: Path, family: str, method: str) -> None:
    """Those of one image at a time, after the last norm: CLIP's states come before it."""
    annotations = Classification().load(folder, None)
    train = Classification().load(folder / "train", None)
    host = small_host(family)
    tower: Any = host.model.vision
    features = []
    for data in (train, annotations):
        encoder = encoder_of(host, data, method)
        tokens = torch.cat([tokens_alone(encoder, pixels).states[:, 0] for pixels in encoder.images[:]])
        features.append(tower.post_layernorm(tokens) if family == "clip" else tokens)
    labels = torch.tensor([one.label for one in train.classified])
    scores = fit_probe(features[0], labels, 7, 0.1).scores(features[1])
    picks = scores.argmax(1).tolist()
    outcome = measured(Classification(), encoder_of(host, annotations, method), annotations, probe=True, probe_l2=0.1)
    assert by_sample(outcome)["probe_top1"] == {
        one.id: float(one.label == pick) for one, pick in zip(annotations.classified, picks, strict=True)
    }


def test_the_record_has_every_figure_with_an_interval(colours: Path) -> None:
    annotations = Classification().load(colours, None)
    outcome = measured(Classification(), encoder_of(small_host("clip"), annotations), annotations, probe=True)
    entry = quality(outcome.frame())["classification"]
    assert set(entry) == {one.name for one in Classification.quantities}
    assert entry["probe_mean_per_class"]["value"] == 1
    assert entry["probe_mean_per_class"]["ci95"] == entry["probe_top1"]["ci95"] == pytest.approx([0.7008, 1], abs=1e-4)


def test_a_host_without_contrast_is_refused(folder: Path) -> None:
    annotations = Classification().load(folder, None)
    with pytest.raises(HarnessError, match=r"^classification: Meter cannot contrast: it can .*; take a host [^\n]*$"):
        measured(Classification(), encoder_of(small_host("meter"), annotations), annotations)


def test_a_probe_without_a_training_split_is_refused(folder: Path) -> None:
    for evaluated in (folder / "train", folder / "test"):
        data = Classification().load(evaluated, None)
        encoder = encoder_of(small_host("clip"), data)
        if evaluated.name == "train":
            with pytest.raises(HarnessError, match=r"the probe needs a training split beside .*train; expected"):
                measured(Classification(), encoder, data, probe=True)
        else:
            assert "probe_top1" in measured(Classification(), encoder, data, probe=True).outcomes


@pytest.mark.parametrize(
    ("only_in", "reason"),
    [
        ("train", r"4 classes in train/, 3 in test/ of .*; the probe needs the same class folders"),
        ("test", r"the class a_class of .*test is missing in train/, or has another place there"),
    ],
)
def test_splits_of_other_classes_are_refused(tmp_path: Path, only_in: str, reason: str) -> None:
    for name in ("one", "three", "two"):
        for split in ("train", "test"):
            noise(tmp_path / split / name / "1.png", 0)
    noise(tmp_path / only_in / ("z_class" if only_in == "train" else "a_class") / "1.png", 0)
    annotations = Classification().load(tmp_path, None)
    with pytest.raises(HarnessError, match=reason):
        measured(Classification(), encoder_of(small_host("clip"), annotations), annotations, probe=True)


def test_a_set_without_images_of_classes_is_refused(folder: Path) -> None:
    annotations = replace(Classification().load(folder, None), classified=())
    with pytest.raises(HarnessError, match="classification: the data has no images of classes"):
        measured(Classification(), encoder_of(small_host("clip"), annotations), annotations)


def test_what_a_probe_lacks_is_said_before_anything_is_measured(folder: Path, tmp_path: Path) -> None:
    host, bare = small_host("clip"), Classification().load(folder / "train", None)
    for task, options in ((Classification(), {"probe": True}), (Features(), {"linear": True})):
        with pytest.raises(HarnessError, match=r"the probe needs a training split beside .*train; expected"):
            task.check(host, bare, task.Options.model_validate(options))
        task.check(host, bare, task.Options())
    for split, names in (("train", "ab"), ("test", "ac")):
        for name in names:
            noise(tmp_path / split / name / "1.png", 0)
    with pytest.raises(HarnessError, match=r"the class c of .*test is missing in train/"):
        Features().check(host, Features().load(tmp_path, None), FeaturesOptions())
    plain = ImageTextSet(bare.images)
    with pytest.raises(HarnessError, match="features: linear=true needs classes"):
        Features().check(host, plain, FeaturesOptions(linear=True))
    with pytest.raises(HarnessError, match="features: one image has no neighbours"):
        Features().check(host, ImageTextSet(plain.images[:1]), FeaturesOptions())
