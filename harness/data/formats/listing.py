"""All files below a folder, listed once, and the images among them by name and by number."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from harness.kit.errors import HarnessError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"})
_NUMBERED = re.compile(r"(?:^|_)(\d{12})$")


class Listing:
    """The files below `root`, in order; links to folders are followed, hidden files and folders left out.

    `images`: those that have an image's ending; `others`: the rest, without the .txt and .json that describe the one
    image of the same name beside them. `empty_folders`: those with nothing in them.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images: list[Path] = []
        self.others: list[Path] = []
        self.empty_folders: list[Path] = []
        self._walk(root, set())
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
            raise HarnessError(f"{source}: names the image {name}, which is not under {self.root}")
        shared = [_shared_end(wanted, path) for path in candidates]
        best = [path for path, count in zip(candidates, shared) if count == max(shared)]
        return self._single(source, f"the image {name}", best)

    def numbered(self, source: Path, number: object, subset: str | None) -> Path:
        """The image whose name ends with a twelve-digit number (COCO_val2014_000000262148.jpg).

        Where several do, the one that names the subset. Raises HarnessError when there is none, or no way to choose.
        """
        digits = str(number)
        candidates = self._by_number.get(int(digits), []) if digits.isdecimal() else []
        if not candidates:
            raise HarnessError(
                f"{source}: names image {digits}, but no COCO_SUBSET_{digits.zfill(12)}.jpg (or .png) is in {self.root}"
            )
        named = [path for path in candidates if subset and subset in path.name]
        return self._single(source, f"image {number}", named[:1] or candidates)

    def _single(self, source: Path, what: str, found: Sequence[Path]) -> Path:
        if len(found) > 1:
            places = ", ".join(str(path.relative_to(self.root)) for path in found[:3])
            raise HarnessError(f"{source}: names {what}, of which there are several ({places}); keep one")
        return found[0]

    def _walk(self, folder: Path, seen: set[str]) -> None:
        real = os.path.realpath(folder)
        if real in seen:
            return  # A link back to a folder that was listed already.
        seen.add(real)
        try:
            with os.scandir(folder) as scan:
                entries = sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda one: one.name)
        except OSError as error:
            raise HarnessError(f"{folder}: cannot be listed ({error.strerror}); make it readable") from error
        if not entries:
            self.empty_folders.append(folder)
        names = [entry.name for entry in entries if entry.is_file()]
        pictured = {os.path.splitext(name)[0] for name in names if _is_image(name)}
        for name in names:
            stem, ending = os.path.splitext(name)
            if _is_image(name):
                self.images.append(folder / name)
            elif stem not in pictured or ending.lower() not in (".txt", ".json"):
                self.others.append(folder / name)
        for entry in entries:
            if entry.is_dir():
                self._walk(folder / entry.name, seen)


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
