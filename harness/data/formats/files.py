"""Annotation files -> Python values: JSON, JSON lines and text, with one-line errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.kit.errors import HarnessError

Json = dict[str, Any]
_IDS = {"id", "image_id", "question_id", "pairID", "sentid"}


def read_text(path: Path) -> str:
    """A UTF-8 file, with or without byte-order mark; HarnessError for any other encoding."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise HarnessError(f"{path}: not UTF-8 (byte {error.start}: {error.reason}); convert it to UTF-8") from error
    except OSError as error:
        raise HarnessError(f"{path}: cannot be read ({error.strerror}); make it readable") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file; of a file of JSON lines, whatever its name, the list of its values.

    Raises HarnessError, one line, for files that are empty, not UTF-8 or not JSON.
    """
    text = read_text(path)
    if not text.strip():
        raise HarnessError(f"{path}: is empty; fetch the file again")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise HarnessError(f"{path}: not valid JSON ({error}); fetch the file again") from error
    except RecursionError as error:
        raise HarnessError(f"{path}: not valid JSON (nested too deeply); fetch the file again") from error
    return _json_lines(path, text)


def rows_with(path: Path, rows: Any, needed: set[str]) -> list[Json]:
    """The entries of a list in a JSON file, each with the needed keys, its ids numbers or texts.

    Raises HarnessError, which names the first entry that is otherwise.
    """
    if not isinstance(rows, list):
        raise HarnessError(f"{path}: expected a list of entries with {', '.join(sorted(needed))}")
    for number, row in enumerate(rows):
        lacking = needed - row.keys() if isinstance(row, dict) else needed
        if lacking:
            raise HarnessError(f"{path}: entry {number} lacks {', '.join(sorted(lacking))}")
        for name in _IDS & row.keys():
            if isinstance(row[name], (list, dict)):
                raise HarnessError(
                    f"{path}: entry {number} has the {name} {row[name]!r:.60}; expected a number or text"
                )
    return rows


def text_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, stripped."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def _json_lines(path: Path, text: str) -> list[Any]:
    values = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values.append(json.loads(line))
        except ValueError as error:
            raise HarnessError(f"{path}: line {number} is not valid JSON ({error}); fetch the file again") from error
    return values
