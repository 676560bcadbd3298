"""`pretrain --split`: which split of a data folder is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.data.augment import Augmentation
from harness.data.pair_loader import PairLoader
from harness.data.pairs import read_pairs
from harness.data.scenes import write_scenes
from harness.kit.errors import HarnessError
from harness.train.pretrain import pretrain
from harness.train.request import PretrainRequest


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """A folder with four scenes of train and six of val, images named apart."""
    for split, count in (("train", 4), ("val", 6)):
        write_scenes(tmp_path / split, split, count, 0)
        text = (tmp_path / split / f"captions_{split}.json").read_text().replace('.png"', f'_{split}.png"')
        (tmp_path / "both" / split).mkdir(parents=True)
        (tmp_path / "both" / f"captions_{split}.json").write_text(text)
        for image in (tmp_path / split / "images").iterdir():
            image.rename(tmp_path / "both" / split / f"{image.stem}_{split}.png")
    return tmp_path / "both"


def test_the_split_that_is_asked_for_is_read(both: Path) -> None:
    assert len(read_pairs(both).refs) == 4
    assert {ref.key.rpartition("_")[2] for ref in read_pairs(both, split="val").refs} == {"val.png#0"}
    request = PretrainRequest(model="clip-tiny", objective="clip", data=(str(both),), out=both.parent / "out", steps=1)
    record = pretrain(
        request.model_copy(update={"split": "val", "recipe": {"batch_size": 2}, "device": "cpu", "quiet": True})
    )
    assert (record["samples"], record["facts"]["split"]) == (6, "val")


def test_an_unknown_split_is_refused_and_those_that_are_there_are_named(both: Path) -> None:
    with pytest.raises(HarnessError, match="no split 'vall'; there is train, val"):
        read_pairs(both, split="vall")


def test_shards_have_no_splits(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="--split val: shards are read whole"):
        PairLoader([str(tmp_path / "*.tar")], None, Augmentation(), 2, split="val")
