"""A data folder, or one annotation file, opened: what it holds, and which of it a loader reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from harness.data.formats.findings import Findings
from harness.data.formats.kinds import Found, Kind
from harness.data.formats.listing import Listing
from harness.data.formats.recognise import recognise
from harness.kit.errors import HarnessError

SPLIT_ORDER = ("test", "val", "dev", "train", "restval")
K = TypeVar("K", bound=Hashable)


class Source:
    """The files of a folder and their kinds. Of a file: its folder's (of annotations/FILE the folder above's).

    Raises HarnessError for what does not exist.
    """

    def __init__(self, where: Path | str) -> None:
        path = Path(where)
        self.where = path
        self.file = path if path.is_file() else None
        self.root = root_of(path)
        self.listing = Listing(self.root)
        self.found = recognise(self.listing)

    @property
    def meant(self) -> list[Found]:
        """What may be read for its own sake: all that was found, or of a file that file."""
        return [one for one in self.found if self.file in (None, one.path)]

    def of(self, *kinds: Kind) -> list[Found]:
        """The files of these kinds; HarnessError for a file that cannot be read, as it may be the one meant."""
        for one in self.meant:
            if one.kind is Kind.UNREADABLE:
                raise HarnessError(one.reason)
        return [one for one in self.found if one.kind in kinds]

    def choose(
        self, candidates: Sequence[Found], what: str, expected: Iterable[Kind], split: str | None
    ) -> tuple[Found, tuple[str, ...]]:
        """The one file to read and the splits to read of it (none: it says nothing of splits).

        `split`: a name, or several with + between them (train+restval). None: what evaluations use, the first of
        SPLIT_ORDER that there is. Raises HarnessError when there is no such file or more than one.
        """
        candidates = [one for one in candidates if self.file in (None, one.path)]
        if not candidates:
            kinds = ", ".join(kind.value for kind in expected)
            raise HarnessError(f"data {self.where}: no {what} in it; expected one of {kinds}")
        named = [name for one in candidates for name in one.splits]
        alike = all(one.splits and one.kind is candidates[0].kind for one in candidates)
        splits = _wanted(split, named, alike, f"data {self.where}")
        fitting = [one for one in candidates if set(one.splits) & set(splits)] if splits else list(candidates)
        if len(fitting) > 1:
            names = ", ".join(str(one.path.relative_to(self.root)) for one in fitting)
            line = f"data {self.where}: several files of {what} ({names})"
            raise HarnessError(f"{line}; name one of the files, or keep one")
        return fitting[0], splits


def root_of(where: Path) -> Path:
    """The folder of a data folder, or of an annotation file: of annotations/FILE the folder above.

    HarnessError for what does not exist.
    """
    if where.is_dir():
        return where
    if not where.is_file():
        raise HarnessError(f"data {where}: no such folder or file; name one, or scenes for the built-in world")
    above = where.parent
    return above.parent if above.name == "annotations" else above


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


def words(value: object) -> str:
    """A text without the blanks around it; empty for what is no text."""
    return value.strip() if isinstance(value, str) else ""


def _wanted(split: str | None, named: Collection[str], alike: bool, where: str) -> tuple[str, ...]:
    """The splits to read; without a wish none, unless all files are `alike`, of one kind and each of a split."""
    if split is None:
        return next(((name,) for name in SPLIT_ORDER if name in named), ()) if alike else ()
    wanted = tuple(split.split("+"))
    lacking = next((name for name in wanted if name not in named), None)
    if lacking is not None:
        known = ", ".join(dict.fromkeys(named)) or "none that says its split"
        raise HarnessError(f"{where}: no split {lacking!r}; there is {known}")
    return wanted
