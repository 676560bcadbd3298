"""Values that were computed before and depend on what their key says alone, kept in the cache folder as lines of JSON.

A key holds all that a value comes from, the digests of the code included, so that what is kept is never stale. A line
carries a digest of itself: one that was cut off or changed is computed again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from harness.kit.digest import canonical
from harness.kit.errors import warn_on_stderr
from harness.kit.files import cache_folder

# A file that has grown beyond this is begun anew: most of what it holds belongs to code that has changed since.
MOST_BYTES = 16 * 2**20


class Kept:
    """The values of one kind, each made when it is first asked for; `name` is the kind's, and its file's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lines: dict[str, bytes] | None = None

    @property
    def path(self) -> Path:
        """The file of this kind."""
        return cache_folder() / "kept" / f"{self.name}.jsonl"

    def value(self, key: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """The value of a key (JSON), from the file or made now: what JSON makes of it, the same either way."""
        if self._lines is None:
            self._lines = _read(self.path)
        name = hashlib.sha256(canonical(key)).hexdigest()
        if name not in self._lines:
            self._lines[name] = json.dumps(make(), allow_nan=False).encode()
            self._append(name, self._lines[name])
        return json.loads(self._lines[name])

    def _append(self, name: str, text: bytes) -> None:
        line = b"%s %s %s\n" % (name.encode(), _digest(name, text), text)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            full = self.path.is_file() and self.path.stat().st_size > MOST_BYTES
            # One write: lines of several processes stay whole.
            with self.path.open("wb" if full else "ab", buffering=0) as file:
                file.write(line)
        except OSError as error:
            _warn_once(f"{self.path}: cannot be written ({error.strerror}); it will be counted again next time")


def _read(path: Path) -> dict[str, bytes]:
    """The whole lines of a file, by name; nothing where there is none."""
    try:
        content = path.read_bytes()
    except OSError:  # not there yet; where it cannot be read, the next line cannot be written, which is reported
        return {}
    found = {}
    for line in content.split(b"\n"):
        name, _, rest = line.partition(b" ")
        digest, _, text = rest.partition(b" ")
        if text and digest == _digest(name.decode(errors="replace"), text):
            found[name.decode()] = text
    return found


def _digest(name: str, text: bytes) -> bytes:
    return hashlib.sha256(name.encode() + text).hexdigest()[:16].encode()


@cache
def _warn_once(line: str) -> None:
    warn_on_stderr(line)
