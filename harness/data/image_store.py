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

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from harness.data.images import decode, faults_of, without_remarks
from harness.data.transforms import normalise
from harness.kit.distributed import batches_of, own_share, run_together
from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT, Progress

# Decoded images (8 bits a channel) that are kept: 9,700 of 384 x 384 pixels, 21,800 of 256 x 256.
PIXEL_BUDGET_BYTES = 4 * 2**30
THREADS = 4
_READ_AT_ONCE = 64
Pixels = npt.NDArray[np.uint8]


@dataclass
class PixelBudget:
    """Bytes of decoded images that may still be kept, by all stores that share it."""

    left: int = PIXEL_BUDGET_BYTES

    def take(self, size: int) -> bool:
        """Whether there is room for `size` bytes more, which are taken then."""
        there = size <= self.left
        self.left -= size if there else 0
        return there


class ImageStore:
    """Images by index: `store[index]` is (B, 3, H, W) float32, bit for bit what `load_images` gives.

    Decoded images are kept within `budget` (left out: one of its own); the others are decoded again when asked for.
    `prefetch` has threads get ready what is asked for next. An image that cannot be read is a HarnessError when it is
    asked for; `ready` finds it before. `seconds` (I,): what decoding and normalising each image took when it was last
    decoded, shared out among the threads that worked at once.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        threads: int = THREADS,
        budget: PixelBudget | None = None,
    ) -> None:
        self.paths = tuple(paths)
        self.size, self.mean, self.std, self.threads = size, tuple(mean), tuple(std), threads
        self.budget = budget or PixelBudget()
        self.seconds = np.zeros(len(self.paths))
        self._kept: dict[int, Pixels] = {}
        self._latest: dict[int, Pixels] = {}
        self._coming: dict[int, Future[tuple[Pixels, Tensor]]] = {}
        self._checked = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="images")

    @staticmethod
    def of(images: Tensor) -> ImageStore:
        """Images (I, 3, H, W) that are there already, in their own dtype."""
        return _Given(images)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Pixels (B, 3, H, W) of some images, an index (B,) or a slice."""
        wanted = torch.arange(len(self))[index] if isinstance(index, slice) else index
        numbers: list[int] = wanted.tolist()
        if not numbers:
            return torch.empty(0, 3, self.size, self.size)
        with without_remarks():
            self.prefetch(wanted)
            found = {number: self._coming.pop(number).result() for number in dict.fromkeys(numbers)}
        self._latest = {number: pixels for number, (pixels, _) in found.items() if not self._keep(number, pixels)}
        return torch.stack([found[number][1] for number in numbers])

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
            run_together(partial(self._read_ahead, own_share(len(self)), progress))
            self._checked = True

    def blank(self) -> ImageStore:
        """As many images of the mean colour, which normalises to zero; no file is read."""
        return _Given(torch.zeros(1, 3, self.size, self.size).expand(len(self), -1, -1, -1))

    def _read(self, number: int, there: Pixels | None, at_once: int) -> tuple[Pixels, Tensor]:
        """An image as decoded and (3, H, W) as normalised; decoded now where it is not there. In a thread."""
        started = perf_counter()
        pixels = decode(self.paths[number], self.size) if there is None else there
        normalised = normalise(pixels[None], self.mean, self.std)[0]
        if there is None:
            self.seconds[number] = (perf_counter() - started) / at_once
        return pixels, normalised

    def _keep(self, number: int, pixels: Pixels) -> bool:
        """Keep a decoded image where there is room for it; returns whether it is kept."""
        if number not in self._kept and self.budget.take(pixels.nbytes):
            self._kept[number] = pixels
        return number in self._kept

    def _read_ahead(self, own: slice, progress: Progress) -> None:
        room = self.budget.left // (3 * self.size**2)
        read = slice(own.start, min(own.stop, own.start + room))
        with progress.bar("images read", own.stop - own.start) as bar, self.reading():
            for part in batches_of(read, _READ_AT_ONCE):
                self.prefetch(torch.arange(part.start, part.stop))
                for number in range(part.start, part.stop):
                    self._keep(number, self._coming.pop(number).result()[0])
                    bar.advance()
            rest = self.paths[read.stop : own.stop]
            for fault in faults_of((path, str(path)) for path in rest):
                if fault is not None:
                    raise HarnessError(fault)
                bar.advance()


class _Given(ImageStore):
    """Images in memory, which nothing waits for."""

    def __init__(self, images: Tensor) -> None:
        super().__init__((), images.shape[-1], (), ())
        self._images, self.seconds = images, np.zeros(len(images))

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
