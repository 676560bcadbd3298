"""Two views of an image beside a wider crop of it, and where each lies in the image (A-CLIP's training images).

Source: microsoft/A-CLIP, datasets.py (GetThreeRandomResizedCrop) and main.py (colours). Nothing is mirrored, so that
captions stay true. A box is (top, left, height, width) in pixels of the image.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from harness.data.augment import Augmentation, cropper, evaluation, seeded

Box = tuple[int, int, int, int]


def covered_views(image: Image.Image, augmentation: Augmentation, draw: int, slips: bool) -> tuple[Tensor, Tensor]:
    """Views 1 and 2 and the wider crop, float32 (3, 3, size, size), and their boxes (3, 4), fixed by the 64-bit draw.

    Crops are those of the augmentation, all of them the whole image where it has none; `randaugment` stands for the
    release's colours, which the views have and the wider crop has not. `slips`: as of `wider_box`.
    """
    with seeded(draw):
        whole = (0, 0, image.height, image.width)
        views = [_drawn_box(image, augmentation) if augmentation.crop else whole for _ in range(2)]
        boxes = [*views, wider_box(views[0], views[1], image, slips) if augmentation.crop else whole]
        crops = [image.crop((left, top, left + width, top + height)) for top, left, height, width in boxes]
        if augmentation.randaugment:
            crops[:2] = [_colours()(crop) for crop in crops[:2]]
    return torch.stack([evaluation(crop, augmentation) for crop in crops]), torch.tensor(boxes)


def wider_box(first: Box, second: Box, image: Image.Image, slips: bool) -> Box:
    """A box that holds both views, moved up and left and made larger at random.

    `slips` has two of the release: its left edge is the smaller of the first view's left edge and the second view's
    HEIGHT, and moving it does not make it larger, so that a view may reach out of it.
    """
    top, left = min(first[0], second[0]), min(first[1], second[2] if slips else second[1])
    bottom, right = (max(box[side] + box[side + 2] for box in (first, second)) for side in (0, 1))
    up, across = _between(0, top), _between(0, left)
    least = (bottom - top, right - left) if slips else (bottom - up, right - across)
    return up, across, _between(least[0], image.height - up), _between(least[1], image.width - across)


def _between(low: int, high: int) -> int:
    """A number drawn from low to high, both included."""
    return int(torch.randint(low, high + 1, ()))


def _drawn_box(image: Image.Image, augmentation: Augmentation) -> Box:
    drawn: dict[str, int] = cropper(augmentation).make_params([image])
    return drawn["top"], drawn["left"], drawn["height"], drawn["width"]


@cache
def _colours() -> Any:
    return v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(9, (0.1, 2.0))], p=0.1),
            v2.RandomSolarize(128, p=0.2),
        ]
    )
