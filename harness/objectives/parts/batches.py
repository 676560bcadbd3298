"""Where an objective's batches come from: what a run asks for, and the loader of augmented pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.data.augment import Augmentation
from harness.data.pair_batch import Crops
from harness.data.pair_loader import PairLoader
from harness.data.pairs import PairRef
from harness.data.training_scenes import training_scenes
from harness.data.world import world_of
from harness.kit.distributed import main_process_first
from harness.kit.progress import Progress


class Batches(Protocol):
    """A source of batches; each has `bad`, the number of samples that were replaced.

    `samples` of an epoch are those of all processes together.
    """

    samples: int
    steps_per_epoch: int

    def epoch(self, epoch: int, skip_steps: int = 0) -> Iterator[Any]:
        """The batches of an epoch from step `skip_steps` on, exactly those of an epoch that was not interrupted."""

    def some_captions(self, most: int) -> list[str]:
        """At most so many texts, from which a vocabulary may be built."""


@dataclass(frozen=True)
class Asked:
    """What a run asks of its source of batches: `sources` as they are named, and pairs `more` by reference."""

    sources: tuple[str, ...]
    root: Path | None
    augmentation: Augmentation
    batch_size: int
    seed: int
    rank: int
    world: int
    workers: int
    max_bad_share: float
    progress: Progress
    more: Sequence[PairRef] = ()
    split: str | None = None


def pair_batches(asked: Asked, views: int = 1, texts: int = 1, crops: Crops | None = None) -> PairLoader:
    """The augmented pairs of the sources and the references, this process's share of them."""
    return PairLoader(
        with_scenes(asked.sources, asked.progress),
        asked.root,
        asked.augmentation,
        asked.batch_size,
        asked.seed,
        asked.rank,
        asked.world,
        asked.workers,
        asked.max_bad_share,
        progress=asked.progress,
        more=asked.more,
        views=views,
        texts=texts,
        crops=crops,
        split=asked.split,
    )


def with_scenes(sources: Sequence[str], progress: Progress, fills: str = "captions") -> tuple[str, ...]:
    """Sources as paths, built-in worlds as their folders, which hold the texts of the field `fills`."""
    found = []
    for source in sources:
        world = world_of(source)
        if world is not None:
            with main_process_first():
                source = str(training_scenes(progress, world, fills))
        found.append(source)
    return tuple(found)
