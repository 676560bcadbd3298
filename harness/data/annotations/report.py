"""What `check data` says of one set of a folder: its counts, what is wrong or odd, and the commands that read it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from harness.data.annotations.findings import Finding, Findings, Tally
from harness.data.annotations.records import ImageTextSet
from harness.data.images import LIMIT_BYTES, faults_of
from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT, Progress
from harness.kit.reading import read_bytes
from harness.kit.shown import shell_words

IMAGES_AT_ONCE = 256
# Images of a set that are decoded; of the others the headers are read.
DECODED = 32
PROGRAM = ("python", "-m", "harness")


class Located(Protocol):
    """What a set was found in."""

    @property
    def path(self) -> Path: ...


T = TypeVar("T", bound=Located)


@dataclass
class Report:
    """One set, made of `files`. It is usable when none of its findings is a fault. `commands`: as arguments. `sample`:
    some of its images.
    """

    title: str
    files: list[Path]
    counts: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    commands: list[list[str]] = field(default_factory=list)
    sample: list[Path] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        return not any(finding.fault for finding in self.findings)

    def lines(self) -> list[tuple[str, bool]]:
        """The title, then indented the counts, the findings (not good: faults), and the commands of a usable set."""
        found = [(self.title, True), *((f"  {text}", True) for text in self.counts if text)]
        for one in sorted(self.findings, key=lambda finding: not finding.fault):
            word = "unusable" if one.fault else "odd"
            text = f"{one.label}: {one.count:,} (first: {one.first})" if one.label else one.first
            found.append((f"  {word}: {text}", not one.fault))
        return found + [(f"  {shell_words([*PROGRAM, *command])}", True) for command in self.commands if self.usable]


@dataclass(frozen=True)
class Examination:
    """How thoroughly sets are looked at: `full` decodes every image, not DECODED of each set.

    An image of several sets is looked at once. `looked`: what hinders it, by whether it was decoded. `digests`: of
    whole files.
    """

    full: bool = False
    progress: Progress = SILENT
    looked: dict[tuple[Path, bool], str | None] = field(default_factory=dict)
    digests: dict[Path, bytes | None] = field(default_factory=dict)

    def report(
        self,
        title: str,
        read: Callable[[Findings], tuple[T, ImageTextSet]],
        counts: Callable[[ImageTextSet], list[str]],
        commands: Callable[[T], list[list[str]]],
    ) -> Report:
        """The report of a set that is read into memory whole; `read` gives the file that it was found in, too."""
        tally, report = Tally(), Report(title, [])
        try:
            found, data = read(tally)
        except HarnessError as error:
            tally.fault("", str(error))
        else:
            first, *others = counts(data) or [""]
            images = counted(len(data.images), "image")
            report.files = [found.path]
            report.counts = [phrases(images, first), *others, self.images(data.images, tally)]
            report.commands, report.sample = commands(found), spaced(data.images, DECODED)
        report.findings = list(tally.found.values())
        return report

    def failed(self, report: Report, line: str) -> Report:
        """A report with the one fault that nothing could be read for."""
        return replace(report, findings=[Finding("", line, fault=True)])

    def images(self, paths: Sequence[Path], tally: Tally, *, fatal: bool = True) -> str:
        """Look at images, and for those that are the same file; returns how they were looked at, empty for no image.

        `fatal`: unreadable ones are faults.
        """
        report = tally.fault if fatal else tally.odd
        decoded = set(paths if self.full else spaced(paths, DECODED))
        remaining = iter(paths)
        with self.progress.bar("images", len(paths)) as bar:
            while part := list(islice(remaining, IMAGES_AT_ONCE)):
                new = [path for path in part if (path, path in decoded) not in self.looked]
                for path, fault in zip(new, faults_of(((path, str(path)) for path in new), decoded), strict=True):
                    self.looked[path, path in decoded] = fault
                for path in part:
                    if fault := self.looked[path, path in decoded]:
                        report("unreadable images", fault)
                bar.advance(len(part))
        for path, other in self._same(paths):
            tally.odd("images that are the same file as another", f"{path} and {other}")
        return looked_at(len(decoded), len(paths))

    def _same(self, paths: Iterable[Path]) -> Iterable[tuple[Path, Path]]:
        """(image, an earlier one of the same content): only files of equal size are read.

        What cannot be read, or is too large to be, is not compared: it has been reported as unreadable.
        """
        by_size: dict[int, list[Path]] = defaultdict(list)
        for path in paths:
            if path.is_file():
                by_size[path.stat().st_size].append(path)
        for size, group in by_size.items():
            seen: dict[bytes, Path] = {}
            for path in group if 0 < size <= LIMIT_BYTES and len(group) > 1 else ():
                digest = self._digest(path)
                if digest is None:
                    continue
                if digest in seen:
                    yield path, seen[digest]
                else:
                    seen[digest] = path

    def _digest(self, path: Path) -> bytes | None:
        """That of a file's content; None where it cannot be read."""
        if path not in self.digests:
            try:
                self.digests[path] = blake2b(read_bytes(path, LIMIT_BYTES)).digest()
            except HarnessError:
                self.digests[path] = None
        return self.digests[path]


def looked_at(decoded: int, images: int) -> str:
    """How many images were decoded; empty for no image."""
    if decoded >= images:
        return "every image decoded" if images else ""
    return f"{decoded:,} of {images:,} images decoded, the headers of the others read; --full decodes all"


def spaced(paths: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of the paths, evenly spaced, the first and the last among them."""
    if len(paths) <= count:
        return list(paths)
    return [paths[number * (len(paths) - 1) // (count - 1)] for number in range(count)]


def counted(number: int, singular: str, plural: str = "") -> str:
    """3 images, 1 image."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def phrases(*parts: str) -> str:
    """Parts in a row, those that say nothing left out."""
    return ", ".join(part for part in parts if part)


def spread(items: Iterable[Hashable], what: str) -> str:
    """How often each of the items stands there: 5 captions each, or 4 to 6 captions each."""
    counts = Counter(items).values()
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"{low:,} {what} each" if low == high else f"{low:,} to {high:,} {what} each"
