"""The images of a set as a model takes them, decoded when asked for and kept while there is room.

Shapes: I images of the set, B images asked for, each 3 x H x W.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.data.transforms import decode, faults_of, normalise, without_remarks
from harness.errors import HarnessError
from harness.parallel import agreed, batches_of, share
from harness.progress import SILENT, Progress

# Decoded images (8 bits a channel) that are kept: 9,700 of 384 x 384 pixels, 21,800 of 256 x 256.
PIXEL_BUDGET_BYTES = 4 * 2**30
THREADS = 4
_READ_AT_ONCE = 256
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Reading:
    """What a store has done so far: seconds its caller waited, seconds of normalising, and of decoding each image (I,).

    Seconds of decoding and normalising are those of the threads over how many worked at once; `times` (I,) says how
    often an image was decoded.
    """

    waited: float
    normalising: float
    decoding: Tensor
    times: Tensor

    def since(self, before: Reading, shown: Tensor) -> float:
        """Seconds that reading the images `shown` (I,) takes, as if nothing else went on meanwhile.

        Images that were not decoded since `before`, but earlier, count with what that took: what a cache saves one
        measurement belongs to its time as much as to that of the first.
        """
        now = self.decoding - before.decoding
        once = self.decoding / self.times.clamp(min=1)
        spent = torch.where(self.times > before.times, now, once)
        return float(spent[shown].sum()) + self.normalising - before.normalising

    def moved(self, start: Reading, end: Reading) -> Reading:
        """This, moved by what was done from `start` to `end`: what is measured from here leaves that out."""
        return Reading(
            self.waited + end.waited - start.waited,
            self.normalising + end.normalising - start.normalising,
            self.decoding + end.decoding - start.decoding,
            self.times + end.times - start.times,
        )


class ImageStore:
    """Images by index: `store[index]` is (B, 3, H, W) float32, bit for bit what `load_images` gives.

    Decoded images are kept up to `budget` bytes; the others are decoded again when asked for. `prefetch` has threads
    get ready what is asked for next. An image that cannot be read is a HarnessError when it is asked for; `ready` finds
    it before.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        threads: int = THREADS,
        budget: int = PIXEL_BUDGET_BYTES,
    ) -> None:
        self.paths = tuple(paths)
        self.size, self.mean, self.std, self.threads, self.budget = size, tuple(mean), tuple(std), threads, budget
        self._kept: dict[int, Pixels] = {}
        self._latest: dict[int, Pixels] = {}
        self._coming: dict[int, Future[_Read]] = {}
        self._checked = False
        self._waited = self._normalising = 0.0
        self._decoding = torch.zeros(len(self.paths), dtype=torch.float64)
        self._times = torch.zeros(len(self.paths), dtype=torch.int64)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="images")

    @staticmethod
    def of(images: Tensor) -> ImageStore:
        """Images (I, 3, H, W) that are there already, in their own dtype."""
        return _Given(images)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Pixels (B, 3, H, W) of some images, an index (B,) or a slice."""
        started = perf_counter()
        wanted = torch.arange(len(self))[index] if isinstance(index, slice) else index
        numbers: list[int] = wanted.tolist()
        if not numbers:
            return torch.empty(0, 3, self.size, self.size)
        with without_remarks():
            self.prefetch(wanted)
            found = {number: self._coming.pop(number).result() for number in dict.fromkeys(numbers)}
        self._waited += perf_counter() - started
        self._latest = {}
        for number, read in found.items():
            self._account(number, read)
        return torch.stack([found[number].normalised for number in numbers])

    def prefetch(self, index: Tensor) -> None:
        """Have images of the index (B,) read by threads, for when they are asked for."""
        new = [number for number in dict.fromkeys(index.tolist()) if number not in self._coming]
        at_once = min(self.threads, len(new))
        for number in new:
            there = self._kept.get(number, self._latest.get(number))
            self._coming[number] = self._pool.submit(self._read, number, there, at_once)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A while in which images are asked for batch by batch; what was prefetched in vain is given up at its end."""
        try:
            with without_remarks():
                yield
        finally:
            for coming in self._coming.values():
                coming.cancel()
            self._coming.clear()

    def ready(self, progress: Progress = SILENT) -> None:
        """Read this process's share of the images, and the headers of those beyond the budget.

        Raises HarnessError in all processes where one of the images cannot be read in one of them.
        """
        if not self._checked:
            agreed(partial(self._read_ahead, share(len(self)), progress))
            self._checked = True

    def blank(self) -> ImageStore:
        """As many images of the mean colour, which normalises to zero; no file is read."""
        return _Given(torch.zeros(1, 3, self.size, self.size).expand(len(self), -1, -1, -1))

    def waited(self) -> float:
        """Seconds that the caller waited up to now."""
        return self._waited

    def so_far(self) -> Reading:
        """What was read up to now."""
        return Reading(self._waited, self._normalising, self._decoding.clone(), self._times.clone())

    def _read(self, number: int, there: Pixels | None, at_once: int) -> _Read:
        """Decode, where the image is not there, and normalise; in a thread."""
        started = perf_counter()
        pixels = decode(self.paths[number], self.size) if there is None else there
        decoded = perf_counter()
        normalised = normalise(pixels[None], self.mean, self.std)[0]
        seconds = (0.0 if there is not None else (decoded - started) / at_once), (perf_counter() - decoded) / at_once
        return _Read(pixels, normalised, there is None, *seconds)

    def _account(self, number: int, read: _Read) -> None:
        self._normalising += read.normalising
        self._decoding[number] += read.decoding
        self._times[number] += int(read.decoded)
        self._keep(number, read.pixels)
        if number not in self._kept:
            self._latest[number] = read.pixels

    def _keep(self, number: int, pixels: Pixels) -> None:
        if (len(self._kept) + 1) * pixels.nbytes <= self.budget:
            self._kept.setdefault(number, pixels)

    def _read_ahead(self, own: slice, progress: Progress) -> None:
        room = self.budget // (3 * self.size**2)
        read = slice(own.start, min(own.stop, own.start + room))
        with progress.bar("images read", own.stop - own.start) as bar, without_remarks():
            for part in batches_of(read, _READ_AT_ONCE):
                started = perf_counter()
                found = list(self._pool.map(partial(decode, size=self.size), self.paths[part]))
                each = (perf_counter() - started) / len(found)
                for number, pixels in zip(range(part.start, part.stop), found, strict=True):
                    self._keep(number, pixels)
                    self._decoding[number] += each
                    self._times[number] += 1
                bar.advance(len(found))
            rest = self.paths[read.stop : own.stop]
            for fault in faults_of((path, str(path)) for path in rest):
                if fault is not None:
                    raise HarnessError(fault)
                bar.advance()


class _Read(NamedTuple):
    """An image as decoded and as normalised, whether it was decoded now, and seconds of both."""

    pixels: Pixels
    normalised: Tensor
    decoded: bool
    decoding: float
    normalising: float


class _Given(ImageStore):
    """Images in memory, which nothing waits for."""

    def __init__(self, images: Tensor) -> None:
        super().__init__((), images.shape[-1], (), ())
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return self._images[index]

    def prefetch(self, index: Tensor) -> None:
        """Nothing: they are there."""

    def ready(self, progress: Progress = SILENT) -> None:
        """Nothing: they are read."""

    def blank(self) -> ImageStore:
        return _Given(torch.zeros_like(self._images[:1]).expand_as(self._images))

    def so_far(self) -> Reading:
        none = torch.zeros(len(self._images))
        return Reading(0.0, 0.0, none, none)
