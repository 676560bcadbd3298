"""Files that are whole or absent."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import HarnessError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, fsync it and rename it; HarnessError when that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HarnessError(f"{path}: cannot be written ({error.strerror}); nothing was changed") from error
