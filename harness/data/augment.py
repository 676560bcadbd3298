"""What training does to images and their texts: random crop, flip, RandAugment, normalise.

Source: ALBEF's dataset/__init__.py (pretrain_transform). Two things differ: RandAugment is torchvision's, which also
has Color, Contrast, Posterize and Solarize and shifts further; and a flip exchanges left and right in the caption.

Every draw depends on one integer that the caller derives from (seed, epoch, key): order, batch and worker do not
matter, and torch's global generator is left as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from torchvision.transforms import v2

from harness.data.images import open_image
from harness.data.transforms import normalise

__all__ = ["Augmentation", "augment", "evaluation", "mirrored", "open_image"]
_SIDES = re.compile(r"\b(left|right)(?=\b|most\b|wards?\b|hand)", re.IGNORECASE)


class Augmentation(BaseModel):
    """ALBEF's pre-training augmentation; `size` in pixels, `scale` as shares of the image's area.

    Without `crop` the whole image is resized to a square.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: PositiveInt = 256
    crop: bool = True
    scale_low: float = Field(default=0.2, gt=0, le=1)
    scale_high: float = Field(default=1.0, gt=0, le=1)
    flip: bool = True
    randaugment: bool = True
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.26862954, 0.26130258, 0.27577711)

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        if self.scale_low > self.scale_high:
            raise ValueError(f"scale {self.scale_low} to {self.scale_high}: expected low <= high")
        return self


def augment(
    images: Sequence[Image.Image], texts: Sequence[str], augmentation: Augmentation, draw: int
) -> tuple[Tensor, list[str]]:
    """A training view of images, float32 (I, 3, size, size), and texts that belong together, fixed by the 64-bit draw.

    A flip mirrors the whole: the images one by one and their order, and the words left and right in every text.
    """
    crop = cropper(augmentation)
    views, said = list(images), list(texts)
    with seeded(draw):
        views = [crop(view) if augmentation.crop else _square(view, augmentation.size) for view in views]
        if augmentation.flip and torch.rand(()) < 0.5:
            views = [v2.functional.horizontal_flip(view) for view in reversed(views)]
            said = [mirrored(text) for text in said]
        if augmentation.randaugment:
            views = [_randaugment()(view) for view in views]
    return torch.stack([_tensor(view, augmentation) for view in views]), said


def evaluation(image: Image.Image, augmentation: Augmentation) -> Tensor:
    """The whole image, resized to a square with bicubic interpolation: float32 (3, size, size)."""
    return _tensor(_square(image, augmentation.size), augmentation)


def _square(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BICUBIC)


def mirrored(caption: str) -> str:
    """The caption with the words left and right exchanged, each in the case of the one it replaces."""
    return _SIDES.sub(lambda match: _other_side(match[0]), caption)


def _other_side(word: str) -> str:
    other = "right" if word.lower() == "left" else "left"
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other


def _tensor(image: Image.Image, augmentation: Augmentation) -> Tensor:
    return normalise(np.asarray(image, dtype=np.uint8)[None], augmentation.mean, augmentation.std)[0]


@contextmanager
def seeded(draw: int) -> Iterator[None]:
    """A block whose draws are fixed by a 64-bit number; torch's generators are left as they were."""
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the accelerators too.
        torch.default_generator.manual_seed(draw)
        yield


@cache
def cropper(augmentation: Augmentation) -> Any:
    """The random crop of an augmentation, resized to its size."""
    return v2.RandomResizedCrop(
        augmentation.size,
        scale=(augmentation.scale_low, augmentation.scale_high),
        interpolation=v2.InterpolationMode.BICUBIC,
    )


@cache
def _randaugment() -> Any:
    """Moved-in corners are grey as in ALBEF's dataset/randaugment.py."""
    return v2.RandAugment(num_ops=2, magnitude=7, num_magnitude_bins=11, fill=[128, 128, 128])
