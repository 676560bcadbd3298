"""Webdataset shards: tar files of images with texts, for pre-training."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from harness.data.annotations.findings import Tally
from harness.data.annotations.format import FileKind, Format, Found, Source
from harness.data.annotations.listing import IMAGE_SUFFIXES, Listing
from harness.data.annotations.report import DECODED, IMAGES_AT_ONCE, Examination, Report, counted, looked_at
from harness.data.images import faults_of
from harness.data.pairs import PairRef, pretrain_command
from harness.data.shards import count_samples, read_shard, shard_names

TEXT_SUFFIXES = (".txt", ".json")
_LOOKED_INTO_MEMBERS = 16
# Shards beyond so much are counted by their headers only.
READ_BYTES = 1 << 30


class Webdataset(Format):
    """SHARD.tar of NAME.jpg with NAME.txt, or NAME.json with "caption"."""

    files = (FileKind("webdataset shard"),)
    noun = "shards"
    suffixes = frozenset()
    pretrains_alone = True

    def find(self, listing: Listing, found: Sequence[Found]) -> list[Found]:
        tars = [path for path in listing.others if path.suffix.lower() == ".tar"]
        return [Found(path, self.files[0], self) for path in tars if _is_shard(path)]

    def describe(self, source: Source, examination: Examination) -> list[Report]:
        """Shards as `pretrain` reads them, the first READ_BYTES of them whole."""
        shards = [one.path for one in source.meant if one.kind is self.files[0]]
        tally, names = Tally(), shard_names(shards)
        read, budget = list[Path](), READ_BYTES
        for shard in shards:
            if not read or shard.stat().st_size <= budget:
                read.append(shard)
                budget -= shard.stat().st_size
        with examination.progress.bar("shards", len(shards)) as bar:
            samples = sum(count_samples(shards, bar.advance).values())
        captions, images, decoded = 0, 0, 0
        for shard in read:
            most = None if examination.full else max(DECODED - decoded, 0)
            refs = read_shard(
                shard,
                names[shard],
                lambda path, reason: tally.odd(
                    "damaged shards, read up to the damage", f"{path}: {reason}; fetch it again"
                ),
                lambda member: tally.odd("members of no sample, for the dots in their names", member),
            )
            more = _check_samples(refs, tally, most)
            captions, images, decoded = captions + more[0], images + more[1], decoded + more[2]
        if samples == 0:
            tally.fault("shards without samples", f"{shards[0]}: holds no image with a text of the same name")
        part = "" if len(read) == len(shards) else f" in the {counted(len(read), 'shard')} read whole"
        title = f"webdataset shards: {shards[0].relative_to(source.root)}{'' if len(shards) == 1 else ' and others'}"
        counts = f"{counted(len(shards), 'shard')}, {counted(samples, 'pair')}, {counted(captions, 'caption')}{part}"
        unusable = sum(one.count for label, one in tally.found.items() if label in _UNUSABLE)
        commands = []
        for folder in dict.fromkeys(shard.parent for shard in shards):
            pairs = sum(count_samples([one for one in shards if one.parent == folder]).values())
            if pairs > 1 and pairs > unusable:
                commands.append(pretrain_command(f"{folder}/*.tar", pairs, unusable))
        return [Report(title, shards, [counts, looked_at(decoded, images)], list(tally.found.values()), commands)]


_DAMAGED = "damaged shards, read up to the damage"
_DOTTED = "members of no sample, for the dots in their names"
_UNUSABLE = ("pairs without caption", "pairs without image", "unreadable images")


def _is_shard(path: Path) -> bool:
    """Whether a tar holds an image and what describes it under one name, its first members being of such kinds."""
    pictured, described = set[str](), set[str]()
    try:
        with tarfile.open(path, "r:") as tar:
            for number, member in enumerate(tar):
                tar.members = []  # type: ignore[attr-defined]  # It would keep every header.
                if number == _LOOKED_INTO_MEMBERS and not pictured | described:
                    return False
                name = Path(member.name)
                kind = name.suffix.lower()
                own, other = (pictured, described) if kind in IMAGE_SUFFIXES else (described, pictured)
                if kind in IMAGE_SUFFIXES or kind in TEXT_SUFFIXES:
                    own.add(name.stem)
                    if name.stem in other:
                        return True
    except (tarfile.TarError, OSError, EOFError, ValueError):
        return True  # Damaged: reading it as a shard says how.
    return False


def _check_samples(refs: Iterator[PairRef], tally: Tally, decoded: int | None) -> tuple[int, int, int]:
    """Report pairs without image or caption and images that cannot be read, of which the first are `decoded`, or all.

    Returns the numbers of captions, of images and of those decoded.
    """
    captions, images = 0, 0
    alone: tuple[set[str], set[str]] = set(), set()
    while part := list(islice(refs, IMAGES_AT_ONCE)):
        for ref in part:
            captions += len(ref.captions)
            if not ref.captions:
                tally.odd("pairs without caption", f"{ref.key}: has no .txt, and no .json with a caption, in UTF-8")
                alone[0].add(ref.key)
            if not ref.image:
                tally.odd("pairs without image", f"{ref.key}: has no image beside its text")
                alone[1].add(ref.key)
        pictured = [(ref.image, ref.key) for ref in part if ref.image]
        whole = [image for image, _ in pictured[: None if decoded is None else max(decoded - images, 0)]]
        for fault in faults_of(pictured, set(whole)):
            if fault:
                tally.odd("unreadable images", fault)
        images += len(pictured)
    for key in sorted(alone[0] & alone[1]):
        line = f"{key}: its image and its text do not stand beside each other; pack the tar again in the order of names"
        tally.fault("pairs packed apart", f"{line} (tar --sort=name)")
    return captions, images, images if decoded is None else min(decoded, images)
