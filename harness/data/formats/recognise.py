"""Which annotation files a folder holds: samples and mirrors rename files, so each is opened and known by content."""

from __future__ import annotations

import mmap
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from harness.data.formats.class_names import class_names
from harness.data.formats.files import read_json, text_lines
from harness.data.formats.kinds import Found, Kind, kind_of, split_named, splits_of, subset_of
from harness.data.formats.listing import IMAGE_SUFFIXES, Listing
from harness.kit.errors import HarnessError

_PARSED_ALWAYS_BYTES = 1 << 25
_LOOKED_INTO_BYTES = 1 << 20
_LOOKED_INTO_FILES = 8
_FIELDS = (b'"caption"', b'"question"', b'"answers"', b'"sentence"', b'"sentences"', b'"sentence2"')
_MARK = "[/EN#"
# Beside annotated images, classes are looked for in this folder only: images of other sets lie in several folders too.
CLASSES = "classes"
_HELPERS = frozenset({Kind.ANSWER_LIST, Kind.TEMPLATES, Kind.SPLIT_LIST, Kind.SENTENCES, Kind.UNKNOWN, Kind.UNREADABLE})


def recognise(listing: Listing) -> list[Found]:
    """Every annotation file of a folder with its kind; folders of sentences and of classes as one each.

    A file that cannot be read is among them, with the reason.
    """
    found = [_of_json(path) for path in listing.others if path.suffix.lower() in (".json", ".jsonl")]
    found += [Found(path, Kind.SHARDS) for path in listing.others if path.suffix.lower() == ".tar" and _is_shard(path)]
    texts = [path for path in listing.others if path.suffix.lower() == ".txt"]
    annotated = not all(one.kind in _HELPERS for one in found)
    root = listing.root / CLASSES if annotated else listing.root
    folders = class_folders(listing, root)
    if not folders:
        return found + _of_texts(texts)
    beside = [one for one in found if one.path.is_relative_to(root)]
    others = [one for one in found if one not in beside]
    near = [path for path in texts if path.is_relative_to(root)]
    others += _of_texts(path for path in texts if path not in near)
    return others + folders + _beside_classes(beside, near, listing, folders)


def class_folders(listing: Listing, root: Path) -> list[Found]:
    """The folder `root` whose subfolders are classes: two or more with images in them, and no image beside them.

    Where its subfolders are named as splits, those of them that are such folders.
    """
    below = [path.relative_to(root).parts for path in listing.images if path.is_relative_to(root)]
    if not below or not all(len(parts) > 1 and split_named(parts[0]) for parts in below):
        return [Found(root, Kind.CLASS_FOLDERS)] if _are_classes(below) else []
    found = []
    for name in dict.fromkeys(parts[0] for parts in below):
        if _are_classes([parts[1:] for parts in below if parts[0] == name]):
            found.append(Found(root / name, Kind.CLASS_FOLDERS, (str(split_named(name)),)))
    return found


def class_images(listing: Listing, root: Path) -> dict[str, list[Path]]:
    """The images of each class below the folder of classes `root`; classes without images with an empty list."""
    images: dict[str, list[Path]] = {path.name: [] for path in listing.empty_folders if path.parent == root}
    for path in listing.images:
        if path.is_relative_to(root):
            images.setdefault(path.relative_to(root).parts[0], []).append(path)
    return images


def _are_classes(below: Sequence[tuple[str, ...]]) -> bool:
    return all(len(parts) > 1 for parts in below) and len({parts[0] for parts in below}) > 1


def _of_json(path: Path) -> Found:
    try:
        if path.stat().st_size > _PARSED_ALWAYS_BYTES and not _names_a_field(path):
            return Found(path, Kind.UNKNOWN)
        content = read_json(path)
    except HarnessError as error:
        return Found(path, Kind.UNREADABLE, reason=str(error))
    kind = kind_of(content)
    return Found(path, kind, splits_of(path, kind, content), subset_of(kind, content))


def _names_a_field(path: Path) -> bool:
    """Whether a large file can be one of ours at all: COCO's instances, as large, are not worth parsing."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return any(content.find(field) >= 0 for field in _FIELDS)


def _is_shard(path: Path) -> bool:
    """Whether a tar's first members are an image and what describes it, under one name."""
    try:
        with tarfile.open(path, "r:") as tar:
            names = [Path(member.name) for member in islice(tar, 2 * _LOOKED_INTO_FILES)]
    except (tarfile.TarError, OSError, EOFError, ValueError):
        return True  # Damaged: reading it as a shard says how.
    pictured = {name.stem for name in names if name.suffix.lower() in IMAGE_SUFFIXES}
    return any(name.stem in pictured and name.suffix.lower() in (".txt", ".json") for name in names)


def _of_texts(texts: Iterable[Path]) -> list[Found]:
    """Folders of marked sentences with the lists of their splits, and files of sentences, one per line."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in texts:
        by_folder[path.parent].append(path)
    marked = [folder for folder, files in by_folder.items() if any(map(_is_marked, files[:_LOOKED_INTO_FILES]))]
    if not marked:
        return [one for files in by_folder.values() for one in _sentences(files)]
    ids = {path.stem for folder in marked for path in by_folder[folder]}
    lists = [(path, split_named(path.stem)) for path in texts if _is_list(path, ids)]
    splits = tuple(split for _, split in lists if split)
    return [
        *(Found(folder, Kind.ENTITIES, splits) for folder in marked),
        *(Found(path, Kind.SPLIT_LIST, (split,)) for path, split in lists if split),
    ]


def _is_marked(path: Path) -> bool:
    return path.stat().st_size <= _LOOKED_INTO_BYTES and _MARK in path.read_text(encoding="utf-8", errors="replace")


def _is_list(path: Path, ids: set[str]) -> bool:
    """Whether a file lists ids of sentence files, one per line."""
    if path.stem in ids and _is_marked(path):
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return any(line in ids for line in lines) and len(lines) == len(text.split())


def _sentences(files: Sequence[Path]) -> list[Found]:
    """Two or more files of equally many lines: sentences and their references."""
    try:
        counts = {len(text_lines(path)) for path in files}
    except HarnessError:
        return []  # No text, so none of ours.
    fitting = len(files) > 1 and len(counts) == 1 and counts != {0}
    return [Found(path, Kind.SENTENCES) for path in files] if fitting else []


def _beside_classes(
    found: Iterable[Found], texts: Iterable[Path], listing: Listing, folders: Sequence[Found]
) -> list[Found]:
    """Files beside folders of classes: names of the classes, and templates of sentences about one."""
    names = list(class_images(listing, folders[0].path))
    return [_beside(one, names) for one in [*found, *(Found(path, Kind.UNKNOWN) for path in texts)]]


def _beside(one: Found, names: Sequence[str]) -> Found:
    if one.kind in (Kind.UNREADABLE, Kind.TEMPLATES) or one.path.stat().st_size > _LOOKED_INTO_BYTES:
        return one
    try:
        lines = text_lines(one.path)
        if lines and all("{}" in line for line in lines):
            return Found(one.path, Kind.TEMPLATES)
        return Found(one.path, Kind.CLASS_NAMES) if class_names(one.path, names) else one
    except HarnessError as error:
        return Found(one.path, Kind.UNREADABLE, reason=str(error))
