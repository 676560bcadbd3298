"""Facts about A-CLIP's crops: boxes say where views lie, the wider crop holds them unless the slips are asked for."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data.augment import Augmentation, evaluation
from harness.data.crops import Box, covered_views, wider_box
from harness.data.pair_loader import PairLoader

PLAIN = Augmentation(size=16, scale_low=0.2, scale_high=0.6, flip=True, randaugment=False)


def picture(width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def boxes_of(draw: int, slips: bool) -> list[Box]:
    return [tuple(box) for box in covered_views(picture(), PLAIN, draw, slips)[1].tolist()]


def holds(wide: Box, box: Box) -> bool:
    return all(wide[at] <= box[at] and box[at] + box[at + 2] <= wide[at] + wide[at + 2] for at in (0, 1))


def test_every_view_is_its_box_of_the_image() -> None:
    image = picture()
    views, boxes = covered_views(image, PLAIN, 7, slips=True)
    for view, (top, left, height, width) in zip(views, boxes.tolist(), strict=True):
        assert torch.equal(view, evaluation(image.crop((left, top, left + width, top + height)), PLAIN))
    assert len({tuple(box) for box in boxes.tolist()}) == 3


def test_the_wider_crop_holds_both_views_and_lies_in_the_image() -> None:
    for draw in range(200):
        first, second, wide = boxes_of(draw, slips=False)
        assert holds(wide, first)
        assert holds(wide, second)
        assert holds((0, 0, 40, 60), wide)


def test_with_the_released_slips_a_view_may_leave_it() -> None:
    left = 0
    for draw in range(200):
        first, second, wide = boxes_of(draw, slips=True)
        assert holds((0, 0, 40, 60), wide)
        left += not (holds(wide, first) and holds(wide, second))
    assert 20 < left < 200


def test_the_slips_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The left edge is the smaller of the first view's and the second's height; what is moved is not made larger."""
    monkeypatch.setattr("harness.data.crops._between", lambda low, high: low)
    first, second = (6, 30, 10, 20), (4, 12, 16, 14)
    assert wider_box(first, second, picture(), slips=True) == (0, 0, 16, 34)
    assert wider_box(first, second, picture(), slips=False) == (0, 0, 20, 50)
    monkeypatch.setattr("harness.data.crops._between", lambda low, high: high)
    assert wider_box(first, second, picture(), slips=True) == (4, 16, 36, 44)
    assert wider_box(first, second, picture(), slips=False) == (4, 12, 36, 48)


def test_without_crops_all_three_are_the_whole_image() -> None:
    whole = PLAIN.model_copy(update={"crop": False})
    views, boxes = covered_views(picture(), whole, 3, slips=True)
    assert boxes.tolist() == [[0, 0, 40, 60]] * 3
    assert torch.equal(views[0], views[2])


def test_colours_are_of_the_views_alone_and_follow_the_draw() -> None:
    coloured = PLAIN.model_copy(update={"randaugment": True, "crop": False})
    changed = 0
    for draw in range(10):
        views, _ = covered_views(picture(), coloured, draw, slips=True)
        assert torch.equal(views[2], evaluation(picture(), coloured))
        changed += int(not torch.equal(views[0], views[2]))
        assert torch.equal(covered_views(picture(), coloured, draw, slips=True)[0], views)
    assert changed > 5


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_gives_views_boxes_and_captions_as_they_are(tmp_path: Path, workers: int) -> None:
    rows = []
    for number in range(4):
        picture(60 + number).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "caption": f"the left of {number}"})
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    crops = partial(covered_views, slips=True)
    loader = PairLoader([str(tmp_path / "pairs.json")], None, PLAIN, 4, workers=workers, crops=crops)
    [batch] = list(loader.epoch(0))
    assert batch.pixels.shape == (4, 3, 3, 16, 16)
    assert batch.boxes is not None
    assert batch.boxes.shape == (4, 3, 4)
    assert sorted(batch.captions) == [f"the left of {number}" for number in range(4)]
    [again] = list(loader.epoch(0))
    assert torch.equal(batch.boxes, again.boxes)
    [later] = list(loader.epoch(1))
    assert not torch.equal(batch.boxes, later.boxes)
