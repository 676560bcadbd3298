"""Facts about augmentation: one integer fixes the view, captions follow the flip, broken images are named."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from harness.data.augment import Augmentation, augment, evaluation, mirrored, open_image
from harness.data.transforms import load_image
from harness.kit.errors import HarnessError

PLAIN = Augmentation(size=16, mean=(0, 0, 0), std=(1, 1, 1))


def noise(width: int = 40, height: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def view(image: Image.Image, caption: str, config: Augmentation, draw: int) -> tuple[torch.Tensor, str]:
    """One image with one caption."""
    pixels, texts = augment([image], [caption], config, draw)
    return pixels[0], texts[0]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog left of a cat", "a dog right of a cat"),
        ("Left and right, RIGHT!", "Right and left, LEFT!"),
        ("the left-hand lane, Right-hand drive", "the right-hand lane, Left-hand drive"),
        ("the leftmost of them walks rightwards", "the rightmost of them walks leftwards"),
        ("leftover bright copyright lefty", "leftover bright copyright lefty"),
    ],
)
def test_left_and_right_are_exchanged_as_whole_words(caption: str, expected: str) -> None:
    assert mirrored(caption) == expected
    assert mirrored(expected) == caption


def test_the_caption_follows_the_flip() -> None:
    image = Image.new("RGB", (32, 32))
    image.paste((255, 255, 255), (0, 0, 16, 32))
    config = PLAIN.model_copy(update={"scale_low": 1.0, "randaugment": False})
    said = set()
    for draw in range(40):
        pixels, caption = view(image, "white on the left", config, draw)
        left, right = pixels[..., :2].mean(), pixels[..., -2:].mean()
        assert caption == ("white on the left" if left > right else "white on the right")
        said.add(caption)
    assert len(said) == 2


def test_without_flip_the_caption_stays() -> None:
    config = PLAIN.model_copy(update={"flip": False})
    assert {view(noise(), "left", config, draw)[1] for draw in range(20)} == {"left"}


def test_one_integer_fixes_the_view_and_the_global_generator_is_untouched() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, _ = view(noise(), "x", PLAIN, 2**64 - 1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, _ = view(noise(), "x", PLAIN, 2**64 - 1)
    other, _ = view(noise(), "x", PLAIN, 5)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_views_have_the_size_and_the_normalisation_asked_for() -> None:
    config = Augmentation(size=24, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    plain = config.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    pixels, _ = view(noise(), "x", config, 3)
    assert (pixels.shape, pixels.dtype) == ((3, 24, 24), torch.float32)
    torch.testing.assert_close(pixels, (view(noise(), "x", plain, 3)[0] - 0.5) / 0.25)


def test_crops_keep_within_the_scale() -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    config = PLAIN.model_copy(update={"size": 64, "flip": False, "randaugment": False})
    widths = []
    for draw in range(100):
        row = view(Image.fromarray(ramp), "x", config, draw)[0][0, 0] * 255
        widths.append(float(row[-1] - row[0]))
    assert min(widths) > 255 * (0.2 * 3 / 4) ** 0.5 - 8
    assert max(widths) > 200


def test_evaluation_is_what_the_tasks_see(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    opened = open_image(tmp_path / "a.png", "a")
    assert torch.equal(evaluation(opened, PLAIN), load_image(tmp_path / "a.png", 16, PLAIN.mean, PLAIN.std))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    content = encoded(noise().convert(mode), "TIFF" if mode in ("CMYK", "YCbCr") else "PNG")
    image = open_image(content, "x")
    assert (image.mode, image.size) == ("RGB", (40, 30))


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_range(form: str) -> None:
    grey = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    image = open_image(encoded(Image.fromarray(grey), form), "x")
    assert np.array_equal(np.asarray(image)[..., 0], grey // 257)


def test_images_are_turned_as_exif_says() -> None:
    image = Image.new("RGB", (8, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert open_image(buffer.getvalue(), "x").size == (4, 8)


@pytest.mark.parametrize("content", [b"", b"no image", encoded(noise())[:500], encoded(noise(), "JPEG")[:500]])
def test_broken_bytes_are_named_by_their_key(content: bytes) -> None:
    with pytest.raises(HarnessError, match=r"image 0.tar/7: cannot be read \(") as caught:
        open_image(content, "0.tar/7")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"absent.png: cannot be read \(.*No such file"):
        open_image(tmp_path / "absent.png", str(tmp_path / "absent.png"))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValidationError, match="expected low <= high"):
        Augmentation(scale_low=0.5, scale_high=0.4)
    with pytest.raises(ValidationError):
        Augmentation(std=(0, 1, 1))


def test_a_flip_mirrors_two_images_as_if_they_hung_side_by_side() -> None:
    dark, light = Image.new("RGB", (16, 16)), Image.new("RGB", (16, 16), (255, 255, 255))
    config = PLAIN.model_copy(update={"crop": False, "randaugment": False})
    seen = {}
    for draw in range(20):
        pixels, texts = augment([dark, light], ["the left image is dark", "left"], config, draw)
        seen[texts[0]] = (pixels.mean((1, 2, 3)).tolist(), texts[1])
    assert seen == {
        "the left image is dark": ([0.0, 1.0], "left"),
        "the right image is dark": ([1.0, 0.0], "right"),
    }
