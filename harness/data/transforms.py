"""Decoded images to the model's input: normalised tensors."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.data.images import decode, read_image, without_remarks


def normalise(images_BHWC: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 images (B, H, W, 3) as float32 (B, 3, H, W): channels in 0..1, less `mean`, over `std`.

    By numpy, which in a thread of a loader starts no threads of its own.
    """
    pixels = images_BHWC.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    pixels /= np.float32(255)
    pixels -= np.array(mean, np.float32).reshape(1, 3, 1, 1)
    pixels /= np.array(std, np.float32).reshape(1, 3, 1, 1)
    return torch.from_numpy(pixels)


def load_image(path: Path, size: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """One image file as float32 (3, size, size)."""
    return normalise(read_image(path, size)[None], mean, std)[0]


def load_images(
    paths: Sequence[Path], size: int, mean: Sequence[float], std: Sequence[float], threads: int = 4
) -> Tensor:
    """Image files as float32 (I, 3, size, size), read by a few threads (decoding releases Python's lock)."""
    if not paths:
        return torch.empty(0, 3, size, size)
    with without_remarks(), ThreadPoolExecutor(threads) as pool:
        images = list(pool.map(partial(decode, size=size), paths))
    return normalise(np.stack(images), mean, std)
