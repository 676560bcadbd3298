"""All files below a folder, listed once, and the images among them by name and by number."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from harness.kit.errors import HarnessError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"})
_DIGITS = 12
_NUMBERED = re.compile(rf"(?:^|_)(\d{{{_DIGITS}}})$")


class ImageMissing(HarnessError):
    """An image that annotations name is not there."""


class Listing:
    """The files below `root`, in order; links to folders are followed, each folder once, but none to those above.

    Left out: hidden files and folders, what editors and archives leave (~$x.json, __MACOSX), and what is neither file
    nor folder, `unreadable`: pipes, devices, links to nothing.
    `images`: those that have an image's ending; `others`: the rest, without the .txt and .json that describe the one
    image of the same name beside them. `empty_folders`: those with nothing in them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: list[Path] = []
        self.others: list[Path] = []
        self.empty_folders: list[Path] = []
        self.unreadable: list[Path] = []
        self._walk()
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_number: dict[int, list[Path]] = defaultdict(list)
        for path in self.images:
            for name in {path.name, path.stem}:
                self._by_name[name].append(path)
            match = _NUMBERED.search(path.stem)
            if match:
                self._by_number[int(match[1])].append(path)

    def named(self, source: Path, name: str) -> Path:
        """The image that the annotation file `source` calls `name`: a path's end, with or without its ending.

        Of several files of that name it is the one at that path, or else the one that shares most of its folders.
        Raises HarnessError when there is none, or several that share equally much.
        """
        wanted, direct = Path(name), self.root / name
        candidates = self._by_name.get(wanted.name, [])
        if direct in candidates:
            return direct
        if not candidates:
            there = any(path.name == wanted.name for path in self.unreadable)
            why = "is a pipe, a device or a link to nothing" if there else f"is not under {self.root}"
            raise ImageMissing(f"{source}: names the image {name}, which {why}")
        shared = [_shared_end(wanted, path) for path in candidates]
        best = [path for path, count in zip(candidates, shared) if count == max(shared)]
        return self._single(source, f"the image {name}", best)

    def numbered(self, source: Path, number: object, subset: str | None) -> Path:
        """The image whose name ends with a twelve-digit number (COCO_val2014_000000262148.jpg); of a name in
        place of the number, the image that is `named` so.

        Where several do, the one that names the subset. Raises HarnessError when there is none, or no way to choose.
        """
        digits = str(number)
        is_number = digits.isdecimal() and len(digits) <= _DIGITS
        if not digits.isdecimal():
            return self.named(source, digits)
        candidates = self._by_number.get(int(digits), []) if is_number else []
        if not candidates:
            raise ImageMissing(
                f"{source}: names image {digits}, but no COCO_SUBSET_{digits.zfill(12)}.jpg (or .png) is in {self.root}"
            )
        named = [path for path in candidates if subset and subset in path.name]
        return self._single(source, f"image {number}", named[:1] or candidates)

    def _single(self, source: Path, what: str, found: Sequence[Path]) -> Path:
        if len(found) > 1:
            places = ", ".join(str(path.relative_to(self.root)) for path in found[:3])
            raise HarnessError(f"{source}: names {what}, of which there are several ({places}); keep one")
        return found[0]

    def _walk(self) -> None:
        # Links back to the folders above would take in all that lies beside the data.
        waiting, seen = [self.root], {_identity(above) for above in self.root.resolve().parents}
        while waiting:
            folder = waiting.pop()
            identity = _identity(folder)
            if identity not in seen:  # Otherwise a link back to a folder that was listed already.
                seen.add(identity)
                waiting += reversed(self._listed(folder))

    def _listed(self, folder: Path) -> list[Path]:
        """List a folder's files; returns the folders in it."""
        try:
            with os.scandir(folder) as scan:
                entries = sorted((entry for entry in scan if not _is_left_over(entry.name)), key=lambda one: one.name)
        except OSError as error:
            raise HarnessError(f"{folder}: cannot be listed ({error.strerror}); make it readable") from error
        if not entries:
            self.empty_folders.append(folder)
        names = [entry.name for entry in entries if _is(entry, "file")]
        pictured = {os.path.splitext(name)[0] for name in names if _is_image(name)}
        for name in names:
            stem, ending = os.path.splitext(name)
            if _is_image(name):
                self.images.append(folder / name)
            elif stem not in pictured or ending.lower() not in (".txt", ".json"):
                self.others.append(folder / name)
        folders = [entry.name for entry in entries if _is(entry, "dir")]
        others = {entry.name for entry in entries} - set(names) - set(folders)
        self.unreadable += [folder / name for name in sorted(others)]
        return [folder / name for name in folders]


def _identity(folder: Path) -> tuple[int, int]:
    """What tells a folder from all others, by whatever path it is reached."""
    try:
        found = os.stat(folder)
    except OSError as error:
        raise HarnessError(f"{folder}: cannot be listed ({error.strerror}); make it readable") from error
    return found.st_dev, found.st_ino


def _is(entry: os.DirEntry[str], what: str) -> bool:
    try:
        return entry.is_file() if what == "file" else entry.is_dir()
    except OSError:
        return False  # A link that leads to itself, or to where one may not look.


def _is_left_over(name: str) -> bool:
    return name.startswith((".", "~$")) or name == "__MACOSX"


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _shared_end(wanted: Path, path: Path) -> int:
    """How many folders above the file name the two paths have in common, from the end."""
    count = 0
    for one, other in zip(wanted.parts[-2::-1], path.parts[-2::-1]):
        if one != other:
            break
        count += 1
    return count
