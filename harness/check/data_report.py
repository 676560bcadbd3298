"""What `check data` says of one set of a folder: its counts, what is wrong or odd, and the commands that read it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from harness.data.formats.findings import Finding, Tally
from harness.data.transforms import faults_of
from harness.kit.progress import Progress

IMAGES_AT_ONCE = 256


@dataclass
class Report:
    """One set, made of `files`. It is usable when none of its findings is a fault."""

    title: str
    files: list[Path]
    counts: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        return not any(finding.fault for finding in self.findings)

    def lines(self) -> list[tuple[str, bool]]:
        """The title, then indented the counts, the findings (not good: faults), and the commands of a usable set."""
        found = [(self.title, True), *((f"  {text}", True) for text in self.counts if text)]
        for one in sorted(self.findings, key=lambda finding: not finding.fault):
            word = "unusable" if one.fault else "odd"
            told = f"{one.label}: {one.count:,} (first: {one.first})" if one.label else one.first
            found.append((f"  {word}: {told}", not one.fault))
        return found + [(f"  {command}", True) for command in self.commands if self.usable]


def counted(number: int, singular: str, plural: str = "") -> str:
    """3 images, 1 image."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def spread(items: Iterable[Hashable], what: str) -> str:
    """How often each of the items stands there: 5 captions each, or 4 to 6 captions each."""
    counts = Counter(items).values()
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"{low:,} {what} each" if low == high else f"{low:,} to {high:,} {what} each"


def check_images(paths: Sequence[Path], tally: Tally, progress: Progress, *, fatal: bool = True) -> None:
    """Open every image's header, and look for images that are the same file; `fatal`: unreadable ones are faults."""
    report = tally.fault if fatal else tally.odd
    remaining = iter(paths)
    with progress.bar("images", len(paths)) as bar:
        while part := list(islice(remaining, IMAGES_AT_ONCE)):
            for fault in faults_of((path, str(path)) for path in part):
                if fault:
                    report("unreadable images", fault)
            bar.advance(len(part))
    for path, other in _same(paths):
        tally.odd("images that are the same file as another", f"{path} and {other}")


def _same(paths: Iterable[Path]) -> Iterable[tuple[Path, Path]]:
    """(image, an earlier one of the same content): only files of equal size are read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in paths:
        if path.is_file():
            by_size[path.stat().st_size].append(path)
    for size, group in by_size.items():
        seen: dict[bytes, Path] = {}
        for path in group if size and len(group) > 1 else ():
            digest = blake2b(path.read_bytes()).digest()
            if digest in seen:
                yield path, seen[digest]
            else:
                seen[digest] = path
