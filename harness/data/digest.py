"""What tells one state of a data set, and of the code that reads it, from another; quick enough to plan a run with."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from harness.data.annotations.format import text_suffixes
from harness.data.annotations.source import opened, root_of
from harness.data.scenes import WORLD_FORMATS
from harness.data.shards import is_shards
from harness.data.world import world_of
from harness.kit.errors import HarnessError
from harness.kit.reading import read_bytes
from harness.kit.registry import formats, module_of


def data_digest(path: Path) -> str:
    """The digest (16 hex digits) of a data folder, or of the folder that an annotation file speaks of.

    It covers what loaders can see (`Listing`): names below the folder with the content of files that a format reads as
    text and the size in bytes of everything else, and empty folders, which may be classes. What a listing leaves out is
    left out here too. The digest of a file is that of its whole folder and of its name there: answers, lists and images
    lie in other files. An image that is changed but keeps its name and size passes unnoticed; `run --force` measures
    anew.

    Raises HarnessError for a path that does not exist, and for files that cannot be read.
    """
    root = root_of(path)
    listing, text = opened(path).listing, text_suffixes()
    entries = [(_name(one, root), one) for one in (*listing.images, *listing.others)]
    digest = hashlib.sha256()
    for name, one in sorted(entries):
        digest.update(name + b"\0" + _state(one, text))
    for name in sorted(_name(one, root) for one in listing.empty_folders):
        digest.update(name + b"/\0")
    if path != root:
        digest.update(b"\0" + _name(path, root) + b"\0" + _state(path, text))
    return digest.hexdigest()[:16]


@lru_cache
def reader_modules(data: str, fills: str, _digest: str) -> tuple[str, ...]:
    """The modules of the formats that a field is filled by from a folder, a file or the built-in world.

    They are looked for once for each digest of the data. None for shards, which are read as such. Raises HarnessError
    for data that cannot be read.
    """
    if world_of(data) is not None:
        return (module_of(formats, WORLD_FORMATS[fills]),) if fills in WORLD_FORMATS else ()
    if is_shards(data):
        return ()
    return tuple(sorted({type(one.format).__module__ for one in opened(data).candidates(fills)}))


def _name(path: Path, root: Path) -> bytes:
    # File names that are not UTF-8 reach Python as lone surrogates.
    return path.relative_to(root).as_posix().encode("utf-8", "surrogatepass")


def _state(path: Path, text: frozenset[str]) -> bytes:
    """The digest of an annotation file's content; of any other file its size."""
    try:
        if path.suffix.lower() in text:
            return hashlib.sha256(read_bytes(path)).digest()
        return str(path.stat().st_size).encode() + b"\0"
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); make it readable") from error
