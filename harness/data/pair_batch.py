"""References to pairs read, augmented and put together as a batch: the half of the loader that workers run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from harness.data.augment import Augmentation, augment
from harness.data.images import open_image
from harness.data.pairs import PairRef, caption_of, draw, sample_id
from harness.data.training_scenes import drawn
from harness.kit.errors import HarnessError

Crops = Callable[[Image.Image, Augmentation, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class PairBatch:
    """Pairs of one step: `pixels` (B, 3, H, W) float32, `sample_ids` (B,) int64; B is the batch size.

    Texts that speak of two images, and several views of one, have pixels (B, I, 3, H, W). `targets` are those of the
    references. `texts`: all texts of a pair, the caption first, where a loader gives several. `boxes`: where each view
    lies in its image, where a loader crops by `crops`. `bad` of the pairs could not be read and are replaced by
    repeating others of the batch.
    """

    pixels: Tensor
    captions: list[str]
    keys: list[str]
    sample_ids: Tensor
    bad: int
    targets: list[int | tuple[str, ...] | None]
    texts: list[tuple[str, ...]] = field(default_factory=list)
    boxes: Tensor | None = None


@dataclass(frozen=True)
class _View:
    """A pair as one epoch shows it."""

    pixels: Tensor
    texts: tuple[str, ...]
    target: int | tuple[str, ...] | None
    boxes: Tensor | None = None


class BatchDecoder(Dataset[tuple[PairBatch | None, list[str]]]):
    """A data set that is indexed by a batch's references themselves; it can be pickled, for workers."""

    def __init__(
        self,
        augmentation: Augmentation,
        seed: int,
        epoch: int,
        views: int = 1,
        texts: int = 1,
        crops: Crops | None = None,
    ) -> None:
        self.augmentation, self.seed, self.epoch, self.views, self.texts = augmentation, seed, epoch, views, texts
        self.crops = crops

    def __getitem__(self, refs: list[PairRef]) -> tuple[PairBatch | None, list[str]]:
        """The batch, or None when nothing of it can be read, and why each bad sample is bad."""
        rows: list[_View | None] = []
        failures = []
        for ref in refs:
            try:
                rows.append(self._load(ref))
            except HarnessError as error:
                rows.append(None)
                failures.append(str(error))
        if len(failures) == len(refs):
            return None, failures
        sound = [_next_sound(rows, at) for at in range(len(rows))]
        loaded = [row for at in sound if (row := rows[at]) is not None]
        keys = [refs[at].key for at in sound]
        batch = PairBatch(
            pixels=torch.stack([row.pixels for row in loaded]),
            captions=[row.texts[0] for row in loaded],
            keys=keys,
            sample_ids=torch.tensor([sample_id(key) for key in keys], dtype=torch.int64),
            bad=len(failures),
            targets=[row.target for row in loaded],
            texts=[row.texts for row in loaded] if self.texts > 1 else [],
            boxes=torch.stack(boxes) if (boxes := [row.boxes for row in loaded if row.boxes is not None]) else None,
        )
        return batch, failures

    def _load(self, ref: PairRef) -> _View:
        captions = self._captions(ref)
        answers = ref.target if isinstance(ref.target, tuple) else ()
        images = [
            open_image(image, ref.key) if isinstance(image, bytes) else open_image(drawn(image), str(image))
            for image in (ref.image, ref.second)
            if image is not None
        ]
        if self.crops is not None:
            pixels, boxes = self.crops(images[0], self.augmentation, draw(self.seed, self.epoch, ref.key))
            return _View(pixels, tuple(captions), ref.target, boxes)
        seen, said = augment(images, [*captions, *answers], self.augmentation, draw(self.seed, self.epoch, ref.key))
        more = [
            augment(images, [], self.augmentation, draw(self.seed, self.epoch, ref.key, view))[0]
            for view in range(1, self.views)
        ]
        pixels = torch.cat([seen, *more])
        target = tuple(said[len(captions) :]) if isinstance(ref.target, tuple) else ref.target
        return _View(pixels if len(pixels) > 1 else pixels[0], tuple(said[: len(captions)]), target)

    def _captions(self, ref: PairRef) -> list[str]:
        """The caption that is drawn, and with several texts those behind it, around the end."""
        drawn = caption_of(ref, self.seed, self.epoch)
        if self.texts == 1:
            return [drawn]
        at = ref.captions.index(drawn)
        return [*ref.captions[at:], *ref.captions[:at]][: self.texts]


def _next_sound(rows: Sequence[object | None], at: int) -> int:
    """The first position from `at` on, around the end, that holds something."""
    return next(place % len(rows) for place in range(at, at + len(rows)) if rows[place % len(rows)] is not None)
