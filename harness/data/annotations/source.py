"""A data folder, or one annotation file, opened: what it holds, and which of it is read for a field."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from harness.data.annotations.findings import Findings
from harness.data.annotations.format import UNREADABLE, FileKind, Format, Found, Source, known_formats
from harness.data.annotations.listing import IMAGE_SUFFIXES, Listing
from harness.data.annotations.recognise import JSON_SUFFIXES, recognise, recognised
from harness.data.annotations.records import ImageTextSet
from harness.kit.errors import HarnessError

# What evaluations read unasked; NLVR2 has two test splits, of which the first is published on.
SPLIT_ORDER = ("test", "test1", "val", "dev", "train", "restval")
# Folders that hold annotations alone, beside those of the images: COCO's, and NLVR2's nlvr2/data/balanced.
_ANNOTATION_FOLDERS = ("annotations", "balanced", "unbalanced", "data", "nlvr2")
K = TypeVar("K", bound=Hashable)
# Inside `read_once`: what was loaded, and the folders that it was loaded from.
_read: ContextVar[dict[tuple[object, ...], ImageTextSet] | None] = ContextVar("read", default=None)
_open: ContextVar[dict[Path, OpenedSource] | None] = ContextVar("open", default=None)


class OpenedSource(Source):
    """The files of a folder and their kinds. Of a file: its folder's, or the folder above annotations/FILE.

    Raises HarnessError for what does not exist.
    """

    def __init__(self, where: Path | str) -> None:
        path = Path(where)
        self.where = path
        self.file = path if path.is_file() else None
        self.root = root_of(path)

    @cached_property
    def listing(self) -> Listing:
        """All that lies below the root."""
        return Listing(self.root)

    @cached_property
    def found(self) -> list[Found]:
        """The annotation files below the root."""
        return recognise(self.listing)

    @cached_property
    def meant(self) -> list[Found]:
        """What may be read for its own sake: all that was found, or of a file that file.

        A file of JSON is known without the folder: lists of millions of pairs lie side by side.
        """
        if self.file is not None and self.file.suffix.lower() in JSON_SUFFIXES:
            return [recognised(self.file, known_formats())]
        return [one for one in self.found if self.file in (None, one.path)]

    def of(self, *kinds: FileKind) -> list[Found]:
        """The files of these kinds; HarnessError for a file that cannot be read, as it may be the one meant."""
        self._require_readable()
        return [one for one in self.found if one.kind in kinds]

    def candidates(self, fills: str) -> list[Found]:
        """The sets that fill a field; those made for other uses only where there is nothing better."""
        self._require_readable()
        sets = [(one, one.format) for one in self.meant if one.is_set]
        whole = [(one, of) for one, of in sets if of and of.fills == fills and not of.lacks(self, one)]
        return [one for one, of in whole if not of.second] or [one for one, _ in whole]

    def fields(self) -> tuple[str, ...]:
        """The fields of an ImageTextSet that can be filled from here."""
        wanted = dict.fromkeys(one.format.fills for one in self.meant if one.format)
        return tuple(fills for fills in wanted if fills and self.candidates(fills))

    def choose(self, fills: str, split: str | None) -> tuple[Found, Format, tuple[str, ...]]:
        """The one set that a field is filled from, and the splits to read of it (none: it says nothing of splits).

        `split`: a name, or several with + between them (train+restval). None: what evaluations use, the first of
        SPLIT_ORDER that there is. Raises HarnessError when there is no such set or more than one.
        """
        found = self.candidates(fills)
        if not found:
            raise HarnessError(f"data {self.where}: {self._nothing(fills)}")
        return self.chosen(found, split)

    def chosen(self, found: Sequence[Found], split: str | None) -> tuple[Found, Format, tuple[str, ...]]:
        """As `choose`, of some sets of one field."""
        named = list(dict.fromkeys(name for one in found for name in one.splits))
        alike = all(one.splits and one.format is found[0].format for one in found)
        splits = _wanted(split, named, alike, f"data {self.where}")
        fitting: Sequence[Found] = [one for one in found if set(one.splits) & set(splits)] if splits else found
        first = fitting[0].format
        assert first is not None
        if len(fitting) > 1:
            fitting = first.preferred(fitting, splits)
        if len(fitting) > 1:
            names = ", ".join(str(one.path.relative_to(self.root)) for one in fitting)
            line = f"data {self.where}: several files of {first.noun} ({names})"
            raise HarnessError(f"{line}; name one of the files, or keep one")
        assert fitting[0].format is not None
        return fitting[0], fitting[0].format, splits

    def training_split(self, fills: str) -> str | None:
        """What is trained on unasked: train, with Karpathy's restval; None for a set that says nothing of splits.

        Raises HarnessError for a set that has splits, but none for training.
        """
        named = {split for one in self.candidates(fills) for split in one.splits}
        if "train" in named:
            return "train+restval" if "restval" in named else "train"
        if named:
            raise HarnessError(
                f"data {self.where}: holds {', '.join(sorted(named))}, no train; say what to train on with --split"
            )
        return None

    def _nothing(self, fills: str) -> str:
        """Why a field cannot be filled."""
        known = [one for one in known_formats() if one.fills == fills]
        for one in self.meant:
            if one.is_set and one.format is not None and one.format.fills == fills:
                return one.format.lacks(self, one)
        noun = next((one.noun for one in known), fills)
        return f"no {noun} in it; expected one of {', '.join(one.files[0].title for one in known)}"

    def _require_readable(self) -> None:
        for one in self.meant:
            if one.kind is UNREADABLE:
                raise HarnessError(one.reason)


def load(fills: str, where: Path | str, limit: int | None = None, split: str | None = None) -> ImageTextSet:
    """The set in a folder, or a file, that fills a field of an ImageTextSet; `limit` keeps the first images.

    `split` chooses among files, and within those of several splits; None: the first of SPLIT_ORDER. Raises
    HarnessError, one line, for a folder without such a set, and for whatever in it no task can use.
    """
    once, about = _read.get(), (fills, Path(where), limit, split)
    if once is not None and about in once:
        return once[about]
    source = opened(where)
    found, one, splits = source.choose(fills, split)
    read = one.read(source, found, splits, Findings(), limit)
    if once is not None:
        once[about] = read
    return read


def opened(where: Path | str) -> OpenedSource:
    """A folder, or a file, opened; inside `read_once` as it was when it was opened first."""
    known = _open.get()
    if known is None:
        return OpenedSource(where)
    if Path(where) not in known:
        known[Path(where)] = OpenedSource(where)
    return known[Path(where)]


@contextmanager
def read_once() -> Iterator[None]:
    """Inside, no folder is listed, recognised or read twice, as in a plan, which asks for each set once a task.

    What changes meanwhile is not seen.
    """
    tokens = _read.set({}), _open.set({})
    try:
        yield
    finally:
        _read.reset(tokens[0])
        _open.reset(tokens[1])


def root_of(where: Path) -> Path:
    """The folder of a data folder, or of an annotation file: of annotations/FILE the folder above.

    Folders that hold no image and are called as publishers call those of annotations are left upwards, three of them at
    most. HarnessError for what does not exist.
    """
    if where.is_dir():
        return where
    if not where.is_file():
        if where.exists():
            raise HarnessError(f"data {where}: is a pipe or a device; name a folder or a file")
        raise HarnessError(f"data {where}: no such folder or file; name one, or scenes for the built-in world")
    folder = where.parent
    if folder.name == "annotations":
        return folder.parent
    for _ in range(3):
        above = folder.absolute().parent
        if folder.absolute().name not in _ANNOTATION_FOLDERS or above in (Path.home(), above.parent):
            break
        if _holds_images(folder):
            break
        folder = folder.parent if folder.name else above
    return folder


def first_images(
    keys: Iterable[K], limit: int | None, locate: Callable[[K], Path], findings: Findings
) -> dict[K, Path]:
    """Where the images of the first `limit` different keys are; those that are not there are faults, and left out."""
    found = {}
    for key in list(dict.fromkeys(keys))[:limit]:
        try:
            found[key] = locate(key)
        except HarnessError as error:
            findings.fault("images not found", str(error))
    return found


def _holds_images(folder: Path) -> bool:
    names = (name for _, _, files in os.walk(folder) for name in files)
    return any(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in names)


def _wanted(split: str | None, named: Collection[str], alike: bool, where: str) -> tuple[str, ...]:
    """The splits to read; without a wish none, unless all files are `alike`, of one format and each of a split."""
    if split is None:
        if not alike:
            return ()
        first = next(((name,) for name in SPLIT_ORDER if name in named), ())
        if not first:
            raise HarnessError(f"{where}: holds {', '.join(named)}; name what to read of it with --split")
        return first
    wanted = []
    for name in split.split("+"):
        numbered = [other for other in named if other.startswith(name) and other[len(name) :].isdecimal()]
        if name not in named and len(numbered) != 1:
            known = ", ".join(named) or "none that says its split"
            raise HarnessError(f"{where}: no split {name!r}; there is {known}")
        wanted.append(name if name in named else numbered[0])
    return tuple(wanted)
