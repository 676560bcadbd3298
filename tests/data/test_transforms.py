"""Facts about reading images: colours, orientation, size and what is said of broken files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from harness.data.images import faults_of, open_image, read_image
from harness.data.transforms import load_image, load_images, normalise
from harness.kit.errors import HarnessError

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


def rgb(path: Path) -> list[int]:
    return [int(value) for value in np.asarray(open_image(path, path.name))[0, 0]]


@pytest.mark.parametrize(
    ("image", "ending", "expected"),
    [
        (Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "tiff", [255, 0, 0]),
        (Image.new("L", (16, 16), 77), "png", [77, 77, 77]),
        (Image.new("1", (16, 16), 1), "png", [255, 255, 255]),
        (Image.new("LA", (16, 16), (90, 0)), "png", [90, 90, 90]),
        (Image.new("RGBA", (16, 16), (10, 20, 30, 0)), "png", [10, 20, 30]),
        (Image.fromarray(np.full((4, 4), 40000, np.uint16)), "png", [155, 155, 155]),
        (Image.fromarray(np.full((4, 4), 40000, np.uint16)), "ppm", [155, 155, 155]),
    ],
    ids=["cmyk", "grey", "black and white", "grey and alpha", "alpha", "16 bits", "16 bits in PGM"],
)
def test_every_kind_of_colour_is_read_as_rgb(
    tmp_path: Path, image: Image.Image, ending: str, expected: list[int]
) -> None:
    image.save(tmp_path / f"a.{ending}")
    assert rgb(tmp_path / f"a.{ending}") == expected


def test_inverted_cmyk_of_jpeg_is_read_right(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (10, 200, 30)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert np.allclose(rgb(tmp_path / "a.jpg"), [10, 200, 30], atol=2)


def test_a_palette_with_transparency_keeps_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert rgb(tmp_path / "a.png") == [200, 100, 50]


@pytest.mark.parametrize("values", [[[-1.0, 0.0, 3.0]], [[100_000, 200_000, 500_000]]])
def test_grey_of_32_bits_is_scaled_from_its_least_to_its_greatest_value(
    tmp_path: Path, values: list[list[int]]
) -> None:
    kind = np.float32 if isinstance(values[0][0], float) else np.int32
    Image.fromarray(np.array(values, kind)).save(tmp_path / "a.tiff")
    assert np.asarray(open_image(tmp_path / "a.tiff", "a"))[0, :, 0].tolist() == [0, 64, 255]


def test_pixels_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    Image.fromarray(np.array([[np.nan, 1.0]], np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(HarnessError, match=r"image a: cannot be read \(some pixels are no numbers\)"):
        open_image(tmp_path / "a.tiff", "a")


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, "top left"), (3, "bottom right"), (6, "top right"), (8, "bottom left")]
)
def test_jpegs_are_turned_as_exif_says(tmp_path: Path, orientation: int, corner: str) -> None:
    image = Image.new("RGB", (32, 16))
    image.paste((255, 255, 255), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=100)
    read = np.asarray(open_image(tmp_path / "a.jpg", "a"))[..., 0] > 127
    corners = {
        "top left": read[0, 0],
        "top right": read[0, -1],
        "bottom left": read[-1, 0],
        "bottom right": read[-1, -1],
    }
    assert [name for name, white in corners.items() if white] == [corner]


def test_broken_exif_does_no_harm(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (9, 9, 9)).save(tmp_path / "a.jpg", exif=b"Exif\0\0garbage", quality=100)
    assert rgb(tmp_path / "a.jpg") == [9, 9, 9]


@pytest.mark.parametrize("limit", [200, 100])
def test_an_image_of_too_many_pixels_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(HarnessError, match=rf"image a: has more than {limit} pixels; make it smaller or leave it out"):
        open_image(tmp_path / "a.png", "a")


def test_an_empty_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    for source in (tmp_path / "a.jpg", b""):
        with pytest.raises(HarnessError, match=r"image a: cannot be read \(it is empty\)"):
            open_image(source, "a")


def test_faults_are_told_from_the_header_alone(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "empty.png").touch()
    whole = tmp_path / "whole.png"
    found = list(faults_of([(whole, "a"), (tmp_path / "empty.png", "b"), (whole.read_bytes(), "c"), (b"no", "d")]))
    assert [fault is None for fault in found] == [True, False, True, False]
    assert found[1] == "image b: cannot be read (it is empty); fetch it again or leave it out"
