"""What tells one state of a data set from another: a digest that is quick enough to plan a run with."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.data.formats.listing import Listing
from harness.data.formats.source import root_of
from harness.kit.errors import HarnessError

# What loaders read as text. Images, shards and archives are too large to be read before every run.
READ_WHOLE = frozenset({".json", ".jsonl", ".txt"})


def data_digest(path: Path) -> str:
    """The digest (16 hex digits) of a data folder, or of the folder that an annotation file speaks of.

    It covers what loaders can see (`Listing`): names below the folder with the content of annotations and the size in
    bytes of everything else, and empty folders, which may be classes. Links to folders are followed, each folder once;
    hidden files (and so what editors leave) and the .txt and .json beside the image of their name are left out, as
    loaders do. The digest of a file is that of its whole folder and of its name there: answers, lists and images lie
    in other files. An image that is changed but keeps its name and size passes unnoticed; `run --force` measures anew.

    Raises HarnessError for a path that does not exist, and for files that cannot be read.
    """
    root = root_of(path)
    listing = Listing(root)
    entries = [(_name(one, root), one) for one in (*listing.images, *listing.others)]
    digest = hashlib.sha256()
    for name, one in sorted(entries):
        digest.update(name + b"\0" + _state(one))
    for name in sorted(_name(one, root) for one in listing.empty_folders):
        digest.update(name + b"/\0")
    if path != root:
        digest.update(b"\0" + _name(path, root) + b"\0" + _state(path))
    return digest.hexdigest()[:16]


def _name(path: Path, root: Path) -> bytes:
    # File names that are not UTF-8 reach Python as lone surrogates.
    return path.relative_to(root).as_posix().encode("utf-8", "surrogatepass")


def _state(path: Path) -> bytes:
    """The digest of an annotation file's content; of any other file its size."""
    try:
        if path.suffix.lower() in READ_WHOLE:
            return hashlib.sha256(path.read_bytes()).digest()
        return str(path.stat().st_size).encode() + b"\0"
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); make it readable") from error
