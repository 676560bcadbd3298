"""The floors of a pre-training: told apart are weights that read images from such that do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.check import pretrained
from harness.check.pretrained import PRETRAINING_FLOORS, PretrainingFloors, lines, word_losses
from harness.check.weights import Measured
from harness.cli.check import check_weights
from harness.data.world import SMALL_WORLD, WORLDS
from harness.hosts.build import build_host
from harness.hosts.weights.find import assets_of, weights_file
from harness.hosts.weights.own import save_weights
from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT


@pytest.fixture(scope="module")
def blind(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """albef-tiny with random weights and the shipped words."""
    folder = tmp_path_factory.mktemp("blind")
    torch.manual_seed(0)
    save_weights(build_host("albef-tiny"), folder / "model.safetensors", "albef-tiny")
    (folder / "vocab.txt").write_text((assets_of("albef-tiny") / "vocab.txt").read_text())
    return folder


def test_weights_that_read_images_reach_what_random_ones_do_not(blind: Path) -> None:
    seen = lines("albef-tiny", assets_of("albef-tiny"), "scenes", 60)
    assert [good for _, good in seen] == [True]
    assert seen[0][0].startswith("text-to-image R@1 ")
    assert seen[0][0].endswith("(floor 45%)")
    assert [good for _, good in lines("albef-tiny", blind, "scenes", 60)] == [False]


def test_every_floor_of_the_small_world_has_its_line(blind: Path) -> None:
    found = lines("albef-tiny", blind, SMALL_WORLD, 40)
    starts = ["text-to-image R@1 ", "re-ranked ", "loss of words ", "VQA accuracy after fine-tuning ", "with blank "]
    assert all(text.startswith(start) for (text, _), start in zip(found, starts, strict=True))
    assert not found[0][1]
    assert not found[3][1]


def test_words_are_easier_with_their_image_for_a_host_that_reads_it(blind: Path) -> None:
    def measured(weights: Path) -> tuple[float, float]:
        return word_losses(Measured("albef-tiny", weights, "retrieval", SMALL_WORLD, 32, SILENT), "albef-tiny")

    read, without = measured(weights_file("albef-tiny"))
    assert read < 0.8 * without
    assert measured(weights_file("albef-tiny")) == (read, without)
    read, without = measured(blind / "model.safetensors")
    assert read == pytest.approx(without, rel=0.05)


def test_a_head_alone_is_held_against_chance(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_weights(build_host("meter-tiny"), tmp_path / "model.safetensors", "meter-tiny")
    (tmp_path / "vocab.txt").write_text((assets_of("albef-tiny") / "vocab.txt").read_text())
    alone = {(SMALL_WORLD, "meter"): PretrainingFloors(over_chance=10)}
    monkeypatch.setattr(pretrained, "PRETRAINING_FLOORS", alone)
    ((text, good),) = lines("meter-tiny", tmp_path, SMALL_WORLD, 12)
    assert "by the head" in text
    assert text.endswith("times chance (floor 10)")
    assert not good


def test_a_host_and_a_world_without_floors_are_refused() -> None:
    with pytest.raises(HarnessError, match="no floors for meter-tiny pre-trained on scenes; there are some for"):
        lines("meter-tiny", assets_of("albef-tiny"), "scenes")
    with pytest.raises(HarnessError, match="--data scenes-small: goes with --weights"):
        check_weights("albef-tiny", None, SMALL_WORLD, None)
    assert {world for world, _ in PRETRAINING_FLOORS} == set(WORLDS)
