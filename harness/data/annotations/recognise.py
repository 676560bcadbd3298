"""Which annotation files a folder holds: samples and mirrors rename files, so each is opened and known by content."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.data.annotations.format import (
    UNKNOWN,
    UNREADABLE,
    Format,
    Found,
    known_formats,
    split_named,
    without_split,
)
from harness.data.annotations.listing import Listing
from harness.kit.errors import HarnessError, first_line
from harness.kit.files import explained
from harness.kit.reading import file_size, read_json

JSON_SUFFIXES = frozenset({".json", ".jsonl"})
_PARSED_ALWAYS_BYTES = 1 << 25


def recognise(listing: Listing) -> list[Found]:
    """Every annotation file of a folder with its kind; folders of sentences and of classes as one each.

    A file that cannot be read is among them, with the reason.
    """
    known = known_formats()
    found = {path: recognised(path, known) for path in listing.others if path.suffix.lower() in JSON_SUFFIXES}
    for last in (False, True):
        for one in known:
            if one.last is last:
                found |= {other.path: other for other in _found_by(one, listing, list(found.values()))}
    return _with_odd_splits(list(found.values()))


def _found_by(one: Format, listing: Listing, earlier: list[Found]) -> Sequence[Found]:
    """What a format finds; HarnessError that names the format where it, which may be a stranger's, raises whatever."""
    try:
        return list(one.find(listing, earlier))
    except HarnessError:
        raise
    except Exception as error:
        place = f"{type(one).__module__}.{type(one).__name__}"
        raise HarnessError(
            f"format {place}: its find raises {first_line(error)}; mend it, or uninstall its package"
        ) from error


def _with_odd_splits(found: Sequence[Found]) -> list[Found]:
    """The files, those that are named as a split of a set beside them but hold something else made unreadable.

    Passed over, such a file would let another split be read in its place.
    """
    sets = {_without_split(one.path) for one in found if one.is_set and split_named(one.path.stem)}
    checked = []
    for one in found:
        split = split_named(one.path.stem) if one.kind is UNKNOWN else None
        if split is not None and _without_split(one.path) in sets:
            line = (
                f"{one.path}: named as {split}, but its entries are of another form than those of the files beside it"
            )
            checked.append(Found(one.path, UNREADABLE, reason=f"{line}; correct it, or move it away"))
        else:
            checked.append(one)
    return checked


def _without_split(path: Path) -> tuple[Path, str]:
    """A file's folder and name without the split it tells of: alike for all splits of one set."""
    return path.parent, without_split(path.name)


def recognised(path: Path, known: Sequence[Format]) -> Found:
    """What a JSON file is: of the kinds that its content has the fields of, the one with most of them."""
    try:
        if file_size(path) > _PARSED_ALWAYS_BYTES and not _names_fields(path, known):
            return Found(path, UNKNOWN)
        content = read_json(path)
        claims = [(kind.claims(content), one, kind) for one in known for kind in one.files]
        most, one, kind = max(claims, key=lambda claim: claim[0])
        if most:
            return one.found_in(path, kind, content)
    except HarnessError as error:
        return Found(path, UNREADABLE, reason=str(error))
    split = split_named(path.stem)
    if split is not None and _is_empty(content):
        # Passed over, it would let another split be read in its place.
        return Found(
            path, UNREADABLE, reason=f"{path}: named as {split}, but holds no entries; fetch it again or delete it"
        )
    return Found(path, UNKNOWN)


def _is_empty(content: Any) -> bool:
    """Whether a content has no entries: an empty list or object, or nothing but empty lists in an object."""
    lists = [value for value in content.values() if isinstance(value, list)] if isinstance(content, dict) else []
    return content in ([], {}, None) or (bool(lists) and not any(lists))


def _names_fields(path: Path, known: Sequence[Format]) -> bool:
    """Whether a large file can be one of ours at all: COCO's instances, as large, are not worth parsing."""
    wanted = [frozenset().union(*kind.rows.values()) for one in known for kind in one.files if kind.rows]
    reading = explained(f"{path}: cannot be read", "make it readable")
    with reading, path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        there = {name: content.find(f'"{name}"'.encode()) >= 0 for name in frozenset().union(*wanted)}
    return any(all(there[name] for name in fields) for fields in wanted)
