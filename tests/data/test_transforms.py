"""Facts about reading images: colours, orientation, size and what is said of broken files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data.transforms import load_image, load_images, normalise, read_image
from harness.errors import HarnessError

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)


def test_pixels_of_the_right_size_are_only_normalised(tmp_path: Path) -> None:
    pixels = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(
        STD
    ).view(3, 1, 1)
    torch.testing.assert_close(load_image(tmp_path / "a.png", 4, MEAN, STD), expected)


def test_images_come_in_the_order_asked_for_and_resized(tmp_path: Path) -> None:
    for shade in range(6):
        Image.new("L", (8, 6), shade * 40).save(tmp_path / f"{shade}.png")
    images = load_images([tmp_path / f"{shade}.png" for shade in (5, 0, 3)], 4, (0, 0, 0), (1, 1, 1))
    assert images.shape == (3, 3, 4, 4)
    torch.testing.assert_close(images[:, 0, 0, 0] * 255, torch.tensor([200.0, 0.0, 120.0]))


def test_images_are_turned_as_exif_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (16, 16))
    image.paste((255, 255, 255), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 3
    image.save(tmp_path / "turned.png", exif=exif)
    read = load_image(tmp_path / "turned.png", 16, (0, 0, 0), (1, 1, 1))
    assert read[:, 0].max() == 0
    assert read[:, -1].min() == 1


def test_sixteen_bit_grey_keeps_its_range(tmp_path: Path) -> None:
    grey = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png", 16), np.repeat(grey[..., None] // 257, 3, axis=-1))


def test_reading_in_threads_leaves_the_filters_of_warnings_alone(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    load_images([tmp_path / "a.png"] * 64, 4, MEAN, STD)
    assert warnings.filters == before


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(HarnessError, match=r"bad.png: cannot be read") as caught:
        load_images([tmp_path / "bad.png"], 4, MEAN, STD)
    assert "\n" not in str(caught.value)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:4000])
    with pytest.raises(HarnessError, match=r"half.png: cannot be read"):
        load_images([tmp_path / "half.png"], 64, MEAN, STD)


def test_normalise_is_per_channel() -> None:
    black = normalise(np.zeros((1, 1, 1, 3), dtype=np.uint8), MEAN, STD)
    torch.testing.assert_close(black.flatten(), -torch.tensor(MEAN) / torch.tensor(STD))
