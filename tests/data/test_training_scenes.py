"""The scenes that are trained on: drawn as they are seen, and the same whenever they are drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.data import scenes
from harness.data.augment import Augmentation
from harness.data.pair_loader import PairLoader
from harness.data.training_scenes import drawn, training_scenes
from harness.data.world import WORLD_SEED, WORLDS
from harness.kit.errors import HarnessError
from harness.kit.registry import tasks
from harness.train.task_data import task_data

COUNT = 24
PLAIN = Augmentation(size=64, crop=False, flip=False, randaugment=False)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("harness.data.training_scenes.TRAINING_SCENES", COUNT)
    return tmp_path


@pytest.fixture
def whole(cache: Path) -> Path:
    """The same scenes, all drawn at once."""
    scenes.write_scenes(cache / "whole", "train", COUNT, WORLD_SEED)
    return cache / "whole"


def pictures(folder: Path) -> list[Path]:
    return [one for one in sorted((folder / "images").iterdir()) if one.stat().st_size]


def loader(folder: Path, workers: int = 0) -> PairLoader:
    return PairLoader([str(folder)], None, PLAIN, 4, seed=3, workers=workers)


@pytest.mark.parametrize("workers", [0, 1])
def test_steps_draw_what_they_show_and_two_sittings_give_what_one_gives(cache: Path, whole: Path, workers: int) -> None:
    folder, before = training_scenes(), loader(whole)
    batches = loader(folder).epoch(0)
    seen = [next(batches), next(batches)]
    assert [one.name for one in pictures(folder)] == sorted(key.split("#")[0] for one in seen for key in one.keys)
    seen += loader(folder, workers).epoch(0, 2)
    for one, other in zip(seen, before.epoch(0), strict=True):
        assert (one.keys, one.captions) == (other.keys, other.captions)
        assert torch.equal(one.pixels, other.pixels)
    assert [one.read_bytes() for one in pictures(folder)] == [one.read_bytes() for one in pictures(whole)]
    assert training_scenes() == folder


@pytest.mark.parametrize("task", ["retrieval", "captioning", "vqa", "entailment", "nlvr2"])
def test_every_task_learns_of_the_same_texts_as_of_scenes_drawn_at_once(cache: Path, whole: Path, task: str) -> None:
    folder = training_scenes(fills=tasks.get(task).READS)
    one, other = task_data(task, [str(folder)]).refs, task_data(task, [str(whole)]).refs
    for ref, same in zip(one, other, strict=True):
        assert (ref.key, ref.captions, ref.target) == (same.key, same.captions, same.target)
        assert isinstance(ref.image, Path)
        assert drawn(ref.image).stat().st_size > 0
    for path in folder.glob("*_train.json"):
        assert path.read_bytes() == (whole / path.name).read_bytes()


def test_worlds_of_other_sizes_are_drawn_as_such(cache: Path) -> None:
    small = WORLDS["scenes-small"]
    scenes.write_scenes(cache / "small", "train", COUNT, WORLD_SEED, world=small)
    folder = training_scenes(world=small)
    assert folder != training_scenes()
    name = Path("images") / scenes.file_of(7)
    assert drawn(folder / name).read_bytes() == (cache / "small" / name).read_bytes()


def test_an_empty_file_elsewhere_is_no_scene(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "000000000001.png").touch()
    assert drawn(tmp_path / "images" / "000000000001.png").stat().st_size == 0


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    with pytest.raises(HarnessError, match=r"cannot be written.*HARNESS_CACHE"):
        training_scenes()
