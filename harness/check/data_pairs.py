"""`check data` on what no task reads: shards and lists of pairs for pre-training, and sentences for the metrics."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from harness.check.data_commands import metrics_command, pretrain_command
from harness.check.data_report import IMAGES_AT_ONCE, Report, check_images, counted
from harness.data.formats.files import text_lines
from harness.data.formats.findings import Tally
from harness.data.formats.kinds import Found, Kind
from harness.data.formats.source import Source
from harness.data.pairs import PairRef, read_pairs
from harness.data.shards import count_samples, read_shard, shard_names
from harness.data.transforms import faults_of
from harness.kit.errors import HarnessError
from harness.kit.progress import Progress

# Shards beyond so much are counted by their headers only.
READ_BYTES = 1 << 30


def pairs_report(found: Found, root: Path, progress: Progress) -> Report:
    """A list of pairs as `pretrain` reads it, which passes over a few missing and unreadable images."""
    tally = Tally()
    title = f"{found.kind.value}: {found.path.relative_to(root)}"
    report = Report(title, [found.path], commands=[pretrain_command(str(found.path))])
    try:
        pairs = read_pairs(found.path, warn=lambda line: tally.odd("", line))
    except HarnessError as error:
        tally.fault("", str(error))
    else:
        captions = sum(len(pair.captions) for pair in pairs)
        report.counts.append(f"{counted(len(pairs), 'pair')}, {counted(captions, 'caption')}")
        images = dict.fromkeys(pair.image for pair in pairs if isinstance(pair.image, Path) and pair.image.is_file())
        check_images(list(images), tally, progress, fatal=False)
    report.findings = list(tally.found.values())
    return report


def shards_report(shards: Sequence[Path], root: Path, progress: Progress) -> Report:
    """Shards as `pretrain` reads them, the first READ_BYTES of them whole."""
    tally, names = Tally(), shard_names(shards)
    read, budget = list[Path](), READ_BYTES
    for shard in shards:
        if not read or shard.stat().st_size <= budget:
            read.append(shard)
            budget -= shard.stat().st_size
    with progress.bar("shards", len(shards)) as bar:
        samples = sum(count_samples(shards, bar.advance).values())
    captions = 0
    for shard in read:
        refs = read_shard(shard, names[shard], lambda path, reason: _damaged(tally, path, reason))
        captions += _check_samples(refs, tally)
    if samples == 0:
        tally.fault("shards without samples", f"{shards[0]}: holds no image with a text of the same name")
    part = "" if len(read) == len(shards) else f" in the {counted(len(read), 'shard')} read whole"
    folders = dict.fromkeys(shard.parent for shard in shards)
    return Report(
        f"webdataset shards: {shards[0].relative_to(root)}{'' if len(shards) == 1 else ' and others'}",
        list(shards),
        [f"{counted(len(shards), 'shard')}, {counted(samples, 'pair')}, {counted(captions, 'caption')}{part}"],
        list(tally.found.values()),
        [pretrain_command(f"{folder}/*.tar") for folder in folders],
    )


def sentences_reports(source: Source) -> list[Report]:
    """Files of equally many lines, those of a folder as captions and their references.

    Nothing in the texts tells which are the captions: the file that was named, or else the first not called ref…
    """
    named = source.file
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for one in source.found:
        if one.kind is Kind.SENTENCES:
            by_folder[one.path.parent].append(one.path)
    reports = []
    for files in by_folder.values():
        if named not in (None, *files):
            continue
        captions, *references = sorted(files, key=lambda path: (path != named, path.name.lower().startswith("ref")))
        names = ", ".join(str(path.relative_to(source.root)) for path in files)
        told = f"{counted(len(text_lines(captions)), 'line')} each, taken for captions ({captions.name}) and references"
        commands = [metrics_command(captions, references)]
        reports.append(Report(f"{Kind.SENTENCES.value}: {names}", files, [told, "no images"], commands=commands))
    return reports


def _damaged(tally: Tally, shard: Path, reason: str) -> None:
    tally.odd("damaged shards, read up to the damage", f"{shard}: {reason}; fetch it again")


def _check_samples(refs: Iterator[PairRef], tally: Tally) -> int:
    """Report pairs without image or caption and images that cannot be read; returns the number of captions."""
    captions = 0
    while part := list(islice(refs, IMAGES_AT_ONCE)):
        for ref in part:
            captions += len(ref.captions)
            if not ref.captions:
                tally.odd("pairs without caption", f"{ref.key}: has no .txt, and no .json with a caption, in UTF-8")
            if not ref.image:
                tally.odd("pairs without image", f"{ref.key}: has no image beside its text")
        for fault in faults_of((ref.image, ref.key) for ref in part if ref.image):
            if fault:
                tally.odd("unreadable images", fault)
    return captions
