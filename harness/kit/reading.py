"""Files of strangers, read safely: regular files alone, of a stated size, with every fault a HarnessError of one line.

JSON may be nested too deeply or hold integers of thousands of digits; YAML may hold aliases that grow without end and
tags that name classes. Both are refused here, for all who read such files.
"""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from harness.kit.errors import HarnessError

TEXT_LIMIT_BYTES = 4 * 2**30
YAML_LIMIT_BYTES = 2**20


def file_size(path: Path) -> int:
    """The size in bytes of a regular file; HarnessError for folders, pipes, devices and what cannot be looked at."""
    try:
        about = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise HarnessError(
            f"{path}: cannot be read ({reason}); name a file that is there and make it readable"
        ) from error
    if not stat.S_ISREG(about.st_mode):
        raise HarnessError(f"{path}: is no regular file, but a folder, pipe or device; name a file")
    return about.st_size


def why_no_file(path: Path) -> str:
    """Why a path is no regular file, in words: "no such file", or what it is."""
    return "is a pipe or a device" if path.exists() and not path.is_dir() else "no such file"


def read_bytes(path: Path, limit: int = TEXT_LIMIT_BYTES) -> bytes:
    """A regular file of at most `limit` bytes; a larger one is refused without being read."""
    size = file_size(path)
    if size > limit:
        raise HarnessError(
            f"{path}: has {size:,} bytes, more than the {limit:,} that are read; split it or leave it out"
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); make it readable") from error


def read_text(path: Path, limit: int = TEXT_LIMIT_BYTES) -> str:
    """A UTF-8 file, with or without byte-order mark, line ends as \\n; HarnessError for any other encoding."""
    try:
        text = read_bytes(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path}: not UTF-8 (byte {error.start}: {error.reason}); convert it to UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def text_lines(path: Path, limit: int = TEXT_LIMIT_BYTES) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    return [line.strip() for line in read_text(path, limit).split("\n") if line.strip()]


def read_json(path: Path, limit: int = TEXT_LIMIT_BYTES) -> Any:
    """The value of a JSON file; of a file of JSON lines, whatever its name, the list of its values.

    Raises HarnessError, one line, for files that are empty, not UTF-8 or not JSON.
    """
    text = read_text(path, limit)
    if not text.strip():
        raise HarnessError(f"{path}: is empty; fetch the file again")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise _no_json(str(path), error) from error
    except (ValueError, RecursionError) as error:
        raise _no_json(str(path), error) from error
    numbered = ((number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    return [parse_json(line, f"{path}: line {number}") for number, line in numbered]


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text, which `where` names in errors."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_json(where, error) from error


def read_yaml(path: Path) -> Any:
    """The value of a YAML file (see `parse_yaml`)."""
    return parse_yaml(read_text(path, YAML_LIMIT_BYTES), str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text made of maps, lists, texts, numbers, booleans and null; dates stay texts.

    Raises HarnessError, one line, for anchors, aliases, tags, more than YAML_LIMIT_BYTES, and malformed text.
    """
    if len(text) > YAML_LIMIT_BYTES:
        raise HarnessError(f"{where}: has {len(text):,} characters of YAML; expected {YAML_LIMIT_BYTES:,} at most")
    try:
        return yaml.load(text, Loader=_PlainLoader)
    except RecursionError as error:
        raise HarnessError(f"{where}: not valid YAML (nested too deeply); correct it") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark is not None else ""
        reason = getattr(error, "problem", None) or _first_line(error)
        raise HarnessError(f"{where}: not valid YAML ({reason}{place}); correct it") from error


class _PlainLoader(yaml.SafeLoader):
    """YAML without anchors, aliases, tags, dates and numbers to the base of sixty (1:30), which stay texts."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        named = isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None
        if named or getattr(event, "tag", None) is not None:
            problem = "anchors, aliases and tags are not read"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        return super().compose_node(parent, index)


def _number(kind: str) -> Callable[[Any, Any], Any]:
    read = getattr(yaml.SafeLoader, f"construct_yaml_{kind}")
    return lambda loader, node: node.value if ":" in node.value else read(loader, node)


for _kind in ("int", "float"):
    _PlainLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number(_kind))
_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _no_json(where: str, error: Exception) -> HarnessError:
    reason = "nested too deeply" if isinstance(error, RecursionError) else _first_line(error)
    return HarnessError(f"{where}: not valid JSON ({reason}); fetch the file again")


def _first_line(error: Exception) -> str:
    if "set_int_max_str_digits" in str(error):  # advice to a program, not to its user
        return f"an integer of more than {sys.get_int_max_str_digits():,} digits"
    return str(error).partition("\n")[0] or type(error).__name__
