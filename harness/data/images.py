"""Image files, decoded: RGB, upright, resized. Only regular files of raster formats and of a stated size are."""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zlib
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from harness.kit.errors import HarnessError

# What Pillow's decoders let out on broken files, beyond OSError.
_UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)
# Pillow would open others by what they begin with, whatever their name: an EPS starts Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
LIMIT_BYTES = 256 * 2**20
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_WIDE = ("I", "F")


def open_image(source: Path | bytes, name: str) -> Image.Image:
    """An image file, or its bytes, decoded: RGB, turned as its EXIF says; `name` is used in errors.

    Transparency is dropped and the colour beneath it kept, as convert("RGB") of ALBEF's and BLIP's released programs
    does. Grey of more than eight bits is scaled, not clipped: 16 bits by 65,535; integers and floats of 32 bits, which
    have no white of their own, from the image's least to its greatest value.
    Raises HarnessError for what is missing, no whole image, or of more pixels than Pillow's MAX_IMAGE_PIXELS.
    """
    with without_remarks():
        return _decoded(source, name)


def read_image(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """An image file as (size, size, 3) uint8 RGB, turned as its EXIF says, resized with bicubic interpolation.

    Raises HarnessError for a file that is missing or is no whole image.
    """
    with without_remarks():
        return decode(path, size)


def faults_of(
    images: Iterable[tuple[Path | bytes, str]], decoded: Collection[Path | bytes] = (), threads: int = 4
) -> Iterator[str | None]:
    """What hinders each image file, or the bytes of one, from being read; None for nothing.

    Those that are to be `decoded` are read whole, of the others the header. Each comes with the name used in the text.
    """
    with without_remarks(), ThreadPoolExecutor(threads) as pool:
        yield from pool.map(lambda image: _fault(*image, whole=image[0] in decoded), images)


@contextmanager
def without_remarks() -> Iterator[None]:
    """Ignore Pillow's remarks on files that it reads well.

    Python's filters are shared by all threads: enter this around threads, not in each of them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        yield


def decode(path: Path, size: int) -> npt.NDArray[np.uint8]:
    """As `read_image`, for threads: Pillow's remarks are for the caller to silence (`without_remarks`)."""
    image = _decoded(path, str(path))
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


def _decoded(source: Path | bytes, name: str) -> Image.Image:
    with _explained(source, name), _opened(source) as file:
        return _eight_bit(ImageOps.exif_transpose(file)).convert("RGB")


def _fault(source: Path | bytes, name: str, *, whole: bool) -> str | None:
    try:
        if whole:
            _decoded(source, name)
        else:
            with _explained(source, name), _opened(source):
                pass
    except HarnessError as error:
        return str(error)
    return None


def _opened(source: Path | bytes) -> Image.Image:
    """The file with its header read. Where Pillow warns of too many pixels, this is an error already."""
    content: Path | io.BytesIO
    if isinstance(source, bytes):
        size, content = len(source), io.BytesIO(source)
    else:
        about = source.stat()
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is no regular file")
        size, content = about.st_size, source
    if size > LIMIT_BYTES:
        raise ValueError(f"it has {size:,} bytes, more than {LIMIT_BYTES:,}")
    file = Image.open(content, formats=FORMATS)
    if Image.MAX_IMAGE_PIXELS is not None and file.width * file.height > Image.MAX_IMAGE_PIXELS:
        file.close()
        raise Image.DecompressionBombError
    return file


@contextmanager
def _explained(source: Path | bytes, name: str) -> Iterator[None]:
    try:
        yield
    except Image.DecompressionBombError as error:
        limit = f"{Image.MAX_IMAGE_PIXELS:,} pixels"
        raise HarnessError(f"image {name}: has more than {limit}; make it smaller or leave it out") from error
    except _UNREADABLE as error:
        empty = not source if isinstance(source, bytes) else source.is_file() and source.stat().st_size == 0
        reason = "it is empty" if empty else str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HarnessError(f"image {name}: cannot be read ({reason}); fetch it again or leave it out") from error


def _eight_bit(image: Image.Image) -> Image.Image:
    """What Pillow's conversion to RGB would spoil: grey of more than eight bits, and palettes with transparency."""
    if image.mode in _SIXTEEN_BIT:
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in _WIDE:
        return Image.fromarray(_stretched(np.asarray(image)))
    return image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image


def _stretched(grey_HW: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Pixels of 32 bits as eight. Integers that 16 bits could hold are taken for such: Pillow reads 16-bit PGM so."""
    low, high = float(grey_HW.min()), float(grey_HW.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("some pixels are no numbers")
    if grey_HW.dtype.kind == "i" and low >= 0 and high <= 65535:
        return (grey_HW // 257).astype(np.uint8)
    span = high - low or 1.0
    return np.rint((grey_HW.astype(np.float64) - low) * (255 / span)).astype(np.uint8)
