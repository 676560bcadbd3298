"""Files that are whole or absent: written under temporary names, fsynced, then renamed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from harness.kit.errors import HarnessError
from harness.kit.reading import read_bytes

_APPLICATION = "vlm-token-harness"
# What ships with the program: weights, starts and vocabularies, a folder for each.
ASSETS = Path(__file__).resolve().parents[1] / "assets"


def cache_folder() -> Path:
    """Where generated data are kept: HARNESS_CACHE, or else the platform's cache folder."""
    chosen = os.environ.get("HARNESS_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir(_APPLICATION))


@contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Turn an OSError of the block into one HarnessError line: what, why, remedy."""
    try:
        yield
    except OSError as error:
        raise HarnessError(f"{what}: {error.strerror or error}; {remedy}") from error


def ensure_writable(folder: Path) -> None:
    """Make a folder and see that files can be written in it; OSError where not. For before long work."""
    probe = folder / f".writable.{os.getpid()}.tmp"
    folder.mkdir(parents=True, exist_ok=True)
    probe.write_bytes(b"")
    probe.unlink()


def replace_all(contents: Mapping[Path, bytes]) -> None:
    """Write all files under temporary names, then rename them in order; on any failure none of them stays.

    What is a device or a pipe (/dev/null, /dev/stdout) is written into: a rename would put a file in its place. Raises
    OSError.
    """
    for path, content in contents.items():
        if _is_special(path):
            with path.open("wb") as file:
                file.write(content)
    contents = {path: content for path, content in contents.items() if not _is_special(path)}
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, content in contents.items():
            with temporary[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, written in temporary.items():
            written.replace(path)
            _sync_folder(path.parent)
    finally:
        for left in temporary.values():
            left.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def write_atomically(path: Path, content: bytes) -> None:
    """Write one file, its folder included; HarnessError when that fails, and then nothing was changed."""
    with explained(f"{path}: cannot be written", "free space or choose another place; nothing was changed"):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_all({path: content})


def file_digest(path: Path) -> str:
    """First 16 hex digits of a file's sha256; HarnessError for folders, pipes, devices and what cannot be read."""
    return hashlib.sha256(read_bytes(path)).hexdigest()[:16]


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
