"""Image files to the model's input: RGB, upright, resized, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from harness.errors import HarnessError


def read_image(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """An image file as (size, size, 3) uint8 RGB, turned as its EXIF says, resized with bicubic interpolation.

    Raises HarnessError for a file that is missing or is no whole image.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HarnessError(f"image {path}: cannot be read ({reason}); fetch it again or leave it out") from error
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


def normalise(images_BHWC: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 images (B, H, W, 3) as float32 (B, 3, H, W): channels in 0..1, less `mean`, over `std`."""
    pixels = torch.from_numpy(np.ascontiguousarray(images_BHWC.transpose(0, 3, 1, 2))).float().div_(255)
    return pixels.sub_(torch.tensor(mean).view(1, 3, 1, 1)).div_(torch.tensor(std).view(1, 3, 1, 1))


def load_image(path: Path, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """One image file as float32 (3, size, size)."""
    return normalise(read_image(path, size)[None], mean, std)[0]


def load_images(
    paths: Sequence[Path], size: int, mean: Sequence[float], std: Sequence[float], threads: int = 4
) -> Tensor:
    """Image files as float32 (I, 3, size, size), read by a few threads (decoding releases Python's lock)."""
    if not paths:
        return torch.empty(0, 3, size, size)
    with ThreadPoolExecutor(threads) as pool:
        images = list(pool.map(partial(read_image, size=size), paths))
    return normalise(np.stack(images), mean, std)
