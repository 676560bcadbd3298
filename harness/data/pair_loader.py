"""Batches of augmented pairs for one process of a pre-training run.

The order is a function of (seed, epoch), and a sample's view of (seed, epoch, key), so that (epoch, steps done) is the
whole position of a run, whatever the number of workers.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from harness.data.augment import Augmentation
from harness.data.pair_batch import BatchDecoder, Crops, PairBatch
from harness.data.pairs import (
    PairRef,
    Pairs,
    Warn,
    draw,
    needed_share,
    read_pairs,
    unique_keys,
)
from harness.data.shards import buffered, count_samples, expand_shards, is_shards, read_shard, round_robin, shard_names
from harness.data.training_scenes import drawn
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.kit.progress import SILENT, Progress

BLOCK_PAIRS = 1000
Unit = Path | list[int]


@dataclass
class Counters:
    """What a loader has delivered and passed over so far, in this process."""

    samples: int = 0
    bad_samples: int = 0
    bad_shards: int = 0


class PairLoader:
    """The pairs of all `sources` (JSON files, folders of one, patterns of shards) and `more`, epoch after epoch.

    `batch_size` is per process; this one is `rank` of `world`. `workers` processes decode (0: this one does).
    `samples` of an epoch are those of all processes together. `views` of each image are augmented apart, words and
    sides of the caption being those of the first; with `texts` above 1 a pair has so many of its captions, from the
    drawn one on, fewer where it has fewer. `crops`, in place of all that, makes the views of an image and their boxes
    (I, 4) from it, the augmentation and a draw; captions stay as they are.
    """

    def __init__(
        self,
        sources: Sequence[str],
        root: Path | None,
        augmentation: Augmentation,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        max_bad_share: float = 0.01,
        buffer_samples: int = 1000,
        warn: Warn = warn_on_stderr,
        progress: Progress = SILENT,
        more: Sequence[PairRef] = (),
        views: int = 1,
        texts: int = 1,
        crops: Crops | None = None,
        split: str | None = None,
    ) -> None:
        """Read the annotation files and count the shards' samples (slow once: let one process count before the others).

        Raises HarnessError for settings out of range, sources that cannot be read (see `read_pairs` and
        `expand_shards`), fewer samples than one global batch, and fewer shards than processes.
        """
        _check(bool(sources or more), (batch_size, buffer_samples), (rank, world), workers, max_bad_share)
        self.augmentation, self.batch_size, self.seed = augmentation, batch_size, seed
        self.rank, self.world, self.workers = rank, world, workers
        self.max_bad_share, self.buffer_samples, self.warn = max_bad_share, buffer_samples, warn
        self.crops = crops
        self.views, self.texts = views, texts
        self.drawn: int | None = None
        self.counters = Counters()
        read = [read_pairs(source, root, self._warn_once, split) for source in sources if not is_shards(source)]
        self.pairs = unique_keys(itertools.chain(*(one.refs for one in read), more))
        if split is not None and any(map(is_shards, sources)):
            raise HarnessError(f"--split {split}: shards are read whole; name the shards of that split")
        self.shards = _distinct(shard for source in sources if is_shards(source) for shard in expand_shards(source))
        self._names = shard_names(self.shards)
        self._damaged: set[Path] = set()
        with progress.bar("counting shards", len(self.shards)) as bar:
            counts = count_samples(self.shards, bar.advance)
        self._count(len(self.pairs) + sum(counts.values()))
        self._check_unusable(read)
        units = len(self.shards) + math.ceil(len(self.pairs) / BLOCK_PAIRS)
        if self.shards and units < world:
            raise HarnessError(
                f"{units} shards and blocks of {BLOCK_PAIRS} pairs: fewer than {world} processes; "
                "split the shards or start fewer processes"
            )

    def draw_with_replacement(self, count: int) -> None:
        """From now on an epoch has `count` pairs, drawn with replacement, in place of each one once.

        HarnessError for fewer than one global batch, and for shards, whose samples are read in a stream.
        """
        if self.shards:
            raise HarnessError(
                f"shard {self.shards[0]}: pairs cannot be drawn with replacement from shards; unpack them"
            )
        self.drawn = count
        self._count(count)

    def epoch(self, epoch: int, skip_steps: int = 0) -> Iterator[PairBatch]:
        """The batches of an epoch from step `skip_steps` on, exactly those of an epoch that was not interrupted.

        Raises HarnessError when more than `max_bad_share` of the epoch's samples of this process cannot be read, or
        none of a batch.
        """
        if not 0 <= skip_steps <= self.steps_per_epoch:
            raise HarnessError(f"skip {skip_steps} steps: an epoch has {self.steps_per_epoch}; resume with less")
        return self._batches(epoch, skip_steps)

    def some_captions(self, most: int) -> list[str]:
        """The first captions, at most `most`: those of the JSON files, then of the shards in their order."""
        shards = (ref for shard in self.shards for ref in self._read_unit(shard))
        every = (caption for ref in itertools.chain(self.pairs, shards) for caption in ref.captions)
        return list(itertools.islice(every, most))

    def draw_scenes(self, progress: Progress = SILENT) -> None:
        """Draw all training scenes among the pairs now, which otherwise are drawn when they are first seen."""
        with progress.bar("scenes", len(self.pairs)) as bar:
            for pair in self.pairs:
                if isinstance(pair.image, Path):
                    drawn(pair.image)
                bar.advance()

    def _count(self, samples: int) -> None:
        """Set what an epoch has."""
        self.samples, batch, world = samples, self.batch_size, self.world
        self.steps_per_epoch = samples // (batch * world)
        if self.steps_per_epoch == 0:
            raise HarnessError(
                f"{samples} pairs: fewer than one global batch of {batch * world} "
                f"({batch} x {world} processes); lower the batch size or add data"
            )

    def _batches(self, epoch: int, skip_steps: int) -> Iterator[PairBatch]:
        refs = self._shuffled_refs(epoch, skip_steps) if self.shards else self._permuted_refs(epoch, skip_steps)
        loader: DataLoader[Any] = DataLoader(
            BatchDecoder(self.augmentation, self.seed, epoch, self.views, self.texts, self.crops),
            batch_size=None,
            sampler=refs,
            num_workers=self.workers,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # Otherwise it draws a seed from the global one.
        )
        bad, first = 0, ""
        allowed = self.max_bad_share * self.steps_per_epoch * self.batch_size
        for batch, failed in loader:
            bad, first = bad + len(failed), first or "".join(failed[:1])
            self.counters.bad_samples += len(failed)
            if batch is None or bad > allowed:
                raise self._too_bad(bad, first, whole_batch=batch is None)
            self.counters.samples += len(batch.keys)
            yield batch

    def _permuted_refs(self, epoch: int, skip_steps: int) -> Iterator[list[PairRef]]:
        """This process's rows of each global batch, which are consecutive in the epoch's permutation."""
        order = self._permutation(epoch)
        for step in range(skip_steps, self.steps_per_epoch):
            first = (step * self.world + self.rank) * self.batch_size
            yield [self.pairs[at] for at in order[first : first + self.batch_size].tolist()]

    def _shuffled_refs(self, epoch: int, skip_steps: int) -> Iterator[list[PairRef]]:
        stream = self._stream(epoch)
        for step in range(self.steps_per_epoch):
            refs = list(itertools.islice(stream, self.batch_size))
            if step >= skip_steps:
                yield refs

    def _stream(self, epoch: int) -> Iterator[PairRef]:
        """This process's shards and blocks without end, through the shuffle buffer; each turn has every sample once."""
        blocks = self._permutation(epoch).split(BLOCK_PAIRS)
        units: list[Unit] = [*self.shards, *(block.tolist() for block in blocks if len(block))]
        random.Random(draw(self.seed, epoch, "units")).shuffle(units)
        units = units[self.rank :: self.world]
        for turn in itertools.count():
            source = random.Random(draw(self.seed, epoch, self.rank, turn, "buffer"))
            if turn:
                source.shuffle(units)
            refs = buffered(round_robin(map(self._read_unit, units)), self.buffer_samples, source)
            first = next(refs, None)
            if first is None:
                raise HarnessError(f"process {self.rank}: no sample in its shards (first {units[0]}); fetch them again")
            yield first
            yield from refs

    def _read_unit(self, unit: Unit) -> Iterator[PairRef]:
        if isinstance(unit, Path):
            return read_shard(unit, self._names[unit], self._report_damage)
        return (self.pairs[at] for at in unit)

    def _permutation(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(draw(self.seed, epoch, "order"))
        if self.drawn is not None:
            return torch.randint(len(self.pairs), (self.drawn,), generator=generator)
        return torch.randperm(len(self.pairs), generator=generator)

    def _check_unusable(self, read: Sequence[Pairs]) -> None:
        """HarnessError where so many pairs cannot be used that an epoch would end at them: better now than then."""
        unusable, epoch = sum(one.unusable for one in read), self.steps_per_epoch * self.batch_size * self.world
        if unusable > self.max_bad_share * epoch:
            first = next(one.first for one in read if one.unusable)
            share = f"{needed_share(unusable, epoch):g}"
            raise HarnessError(
                f"{unusable} of {self.samples} pairs have no image or caption that can be used (first {first}); "
                f"--max-bad-share is {self.max_bad_share:g}: fetch what is missing, or give --max-bad-share {share}"
            )

    def _warn_once(self, line: str) -> None:
        """Say what every process sees from the first one only."""
        if self.rank == 0:
            self.warn(line)

    def _report_damage(self, shard: Path, reason: str) -> None:
        if shard not in self._damaged:
            self._damaged.add(shard)
            self.counters.bad_shards = len(self._damaged)
            self.warn(f"shard {shard}: damaged ({reason}); only the samples before that are used; fetch it again")

    def _too_bad(self, bad: int, first: str, whole_batch: bool) -> HarnessError:
        samples = self.steps_per_epoch * self.batch_size
        return HarnessError(
            f"{bad} of {samples} pairs ({bad / samples:.2%}) cannot be used"
            f"{', among them a whole batch' if whole_batch else ''}; --max-bad-share is {self.max_bad_share:g}; "
            f"the first: {first}"
        )


def loader_rate(loader: PairLoader, seconds: float = 5.0) -> float:
    """Images per second of the loader alone, over about `seconds` after each worker's first batch."""
    batches = (batch for epoch in itertools.count() for batch in loader.epoch(epoch))
    for _ in range(max(1, loader.workers)):
        next(batches)
    images, began = 0, time.perf_counter()
    for batch in batches:
        images += len(batch.keys)
        if time.perf_counter() - began >= seconds:
            break
    return images / (time.perf_counter() - began)


def _unchanged(loaded: Any) -> Any:
    return loaded


def _distinct(shards: Iterable[Path]) -> list[Path]:
    found: dict[Path, Path] = {}
    for shard in shards:
        if shard.resolve() in found:
            raise HarnessError(f"shard {shard}: is named by two sources; name it once")
        found[shard.resolve()] = shard
    return list(found.values())


def _check(given: bool, sizes: tuple[int, int], place: tuple[int, int], workers: int, max_bad_share: float) -> None:
    rank, world = place
    if not given:
        raise HarnessError("no data sources; name JSON files, folders or shards of image-caption pairs")
    if min(sizes) < 1:
        raise HarnessError(f"batch size {sizes[0]}, shuffle buffer {sizes[1]}: expected at least 1 sample each")
    if not 0 <= rank < world:
        raise HarnessError(f"process {rank} of {world}: expected 0 <= rank < world")
    if workers < 0:
        raise HarnessError(f"{workers} workers: expected 0 (decode in this process) or more")
    if not 0 <= max_bad_share <= 1:
        raise HarnessError(f"--max-bad-share {max_bad_share}: expected a share in 0..1")
