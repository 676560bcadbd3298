"""The base of all formats: what a file is, and what a format says of itself.

A format is one class in a file of harness/data/formats/, or an entry point of group `harness.formats`. Its place in the
program is what it says here; nothing else names it.
"""

from __future__ import annotations

import re
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

from harness.data.annotations.findings import Findings
from harness.data.annotations.listing import Listing
from harness.data.annotations.records import ImageTextSet
from harness.data.annotations.report import Examination, Report
from harness.data.annotations.rows import Json
from harness.kit.entries import stated
from harness.kit.errors import HarnessError
from harness.kit.registry import formats, tasks

LOOKED_INTO_ROWS = 100


def _always(row: Json) -> bool:
    return True


@dataclass(frozen=True, eq=False)
class FileKind:
    """What a file is, by the content of JSON: `rows` are the fields of entries by the key of their list.

    The key is empty for a list at the top, or JSON lines. `also`: what holds of the first entry with these fields.
    `test`: of the whole content, instead of rows.
    """

    title: str
    rows: Mapping[str, frozenset[str]] = field(default_factory=dict)
    also: Callable[[Json], bool] = _always
    test: Callable[[Any], bool] | None = None

    def claims(self, content: Any) -> int:
        """How many fields of this kind a content has; 0: it is of another kind. More fields are more specific."""
        if self.test is not None:
            return int(self.test(content))
        found = [_entry(content, key, fields) for key, fields in self.rows.items()]
        if not found or not all(row is not None and self.also(row) for row in found):
            return 0
        return sum(map(len, self.rows.values()))


UNKNOWN = FileKind("not recognised")
UNREADABLE = FileKind("unreadable")


@dataclass(frozen=True)
class Found:
    """A file, or a folder of files, and what it is.

    `splits` that it holds, as far as its content or its name says. `subset`: VQA v2's data_subtype. `reason`: why it
    is unreadable.
    """

    path: Path
    kind: FileKind
    format: Format | None = None
    splits: tuple[str, ...] = ()
    subset: str = ""
    reason: str = ""

    @property
    def is_set(self) -> bool:
        """Whether it is what its format reads, not what goes with that."""
        return self.format is not None and self.kind is self.format.files[0]

    def title(self, root: Path, read: Sequence[str] = ()) -> str:
        """What it is, where below `root`, and of which splits; of several, which are `read`."""
        title = f"{self.kind.title}: {self.path.relative_to(root)}"
        if len(self.splits) < 2:
            return title + "".join(f", split {split}" for split in self.splits)
        splits = ", ".join(self.splits)
        return f"{title}, split {'+'.join(read)} of {splits}" if read else f"{title}, splits {splits}"


class Source(Protocol):
    """What a format may ask of the data folder, or the annotation file, that it is read from.

    `where`: as it was named. `root`: the folder that images and other files lie below. `file`: the file that was
    named, if it is one. `listing`: all that lies below the root. `found`: the annotation files there. `meant`: what
    may be read for its own sake.
    """

    where: Path
    root: Path
    file: Path | None

    @property
    def listing(self) -> Listing: ...

    @property
    def found(self) -> list[Found]: ...

    @property
    def meant(self) -> list[Found]: ...

    def of(self, *kinds: FileKind) -> list[Found]:
        """The files of these kinds; HarnessError for a file that cannot be read, as it may be the one meant."""
        ...

    def candidates(self, fills: str) -> list[Found]:
        """The sets that fill a field; those made for other uses only where there is nothing better."""
        ...

    def chosen(self, found: Sequence[Found], split: str | None) -> tuple[Found, Format, tuple[str, ...]]:
        """Of some sets of one field the one that is read, its format and the splits to read of it."""
        ...


class Format(ABC):
    """What a data set's files look like, and what can be done with them.

    `files`: kinds of its files, that of the set itself first. `fills`: the field of an ImageTextSet; empty for files
    that no task reads. `noun`: what it holds, in errors. `suffixes`: of files that are read as text. `second`: read
    where there is nothing better. `last`: looked for when all other formats have been. `each`: `check data` describes
    every file of it, not the one that evaluations read. `pretrains_alone`: it is made for pre-training, which passes
    over a few pairs that cannot be used.
    """

    KIND: ClassVar[str] = "format"
    files: ClassVar[tuple[FileKind, ...]]
    fills: ClassVar[str] = ""
    noun: ClassVar[str] = ""
    suffixes: ClassVar[frozenset[str]] = frozenset({".json", ".jsonl"})
    second: ClassVar[bool] = False
    last: ClassVar[bool] = False
    each: ClassVar[bool] = False
    pretrains_alone: ClassVar[bool] = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that it serves: those that read the field it fills."""
        return tasks_reading(self.fills)

    def found_in(self, path: Path, kind: FileKind, content: Any) -> Found:
        """A JSON file of this format; its split is the one that the file's name tells of."""
        split = split_named(path.stem)
        return Found(path, kind, self, (split,) if split else ())

    def find(self, listing: Listing, found: Sequence[Found]) -> list[Found]:
        """Files and folders of this format that are no JSON; `found` is what is known of the folder so far."""
        return []

    def lacks(self, source: Source, found: Found) -> str:
        """What a set lacks that no task can do without, in one line; empty where nothing is lacking."""
        return ""

    def beside(self, source: Source, found: Found) -> list[Path]:
        """Other files that a set is read from."""
        return []

    def preferred(self, fitting: Sequence[Found], splits: Sequence[str]) -> Sequence[Found]:
        """Of several files of one split those that are meant."""
        return fitting

    def read(
        self, source: Source, found: Found, splits: tuple[str, ...], findings: Findings, limit: int | None = None
    ) -> ImageTextSet:
        """The set, with what is wrong reported to `findings`; `limit` keeps the first images."""
        raise HarnessError(f"{found.path}: {self.files[0].title} are for no task")

    def counts(self, data: ImageTextSet) -> list[str]:
        """What `check data` counts in a set, beside its images: the first goes on the line that counts these."""
        return []

    def commands(self, source: Source, found: Found) -> list[list[str]]:
        """The commands that `check data` recommends for a set, as arguments of the program."""
        where = ["--data", str(source.where)]
        return [["run", "--method", "elip", "--tasks", task, *where] for task in self.tasks]

    def describe(self, source: Source, examination: Examination) -> list[Report]:
        """What `check data` says of sets that no task reads."""
        return []


def known_formats() -> list[Format]:
    """One of every format that there is, by name."""
    return [_only_one(kind) for kind in formats.all()]


@cache
def _only_one(kind: type[Format]) -> Format:
    return kind()


def tasks_reading(fills: str) -> tuple[str, ...]:
    """The tasks that read a field of an ImageTextSet, by what their files say; none is imported."""
    return tuple(entry.name for entry in tasks.entries().values() if fills and stated(entry, "READS") == fills)


def text_suffixes() -> frozenset[str]:
    """The endings of files that are read as text by any format."""
    return frozenset().union(*(one.suffixes for one in known_formats()))


_SPLIT_WORD = re.compile(r"(?<![a-z])(train|restval|validation|valid|val|dev|test)(?![a-z])", re.IGNORECASE)
_VALIDATION = ("valid", "validation")


def split_named(name: str) -> str | None:
    """The split that a name tells of (train2014, test1, tiny-dev): train, restval, val, dev or test."""
    match = _SPLIT_WORD.search(name)
    if match is None:
        return None
    word = match[1].lower()
    return "val" if word in _VALIDATION else word


def without_split(name: str) -> str:
    """A name without the word that `split_named` finds in it."""
    return _SPLIT_WORD.sub("", name, count=1)


def _entry(content: Any, key: str, fields: frozenset[str]) -> Json | None:
    """The first entry of a content's list that has the fields."""
    # JSON lines of which there is only one are an object.
    lines = [content] if isinstance(content, dict) else content
    rows = lines if not key else content.get(key) if isinstance(content, dict) else None
    looked_into = rows[:LOOKED_INTO_ROWS] if isinstance(rows, list) else []
    return next((row for row in looked_into if isinstance(row, dict) and fields <= row.keys()), None)
