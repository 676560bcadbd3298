"""Entries of annotation files: their fields, ids, names of images and texts, each with one-line errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.kit.errors import HarnessError

Json = dict[str, Any]
IDS = frozenset({"id", "image_id", "question_id", "pairID", "sentid"})
# What names an image, or a file.
NAMES = frozenset({"image", "file_name", "filename", "Flickr30K_ID", "identifier"})
TEXT_LIMIT_CHARACTERS = 100_000


def rows_with(path: Path, rows: Any, needed: set[str], each: str = "entry") -> list[Json]:
    """The entries of a list in a JSON file, each with the needed keys, its ids and names whole numbers or texts.

    `each`: what one is called, of a list within an entry with where it stands ("question 7, answer"). Raises
    HarnessError, which names the first entry that is otherwise.
    """
    if not isinstance(rows, list):
        place = "" if each == "entry" else f"{each}s: "
        raise HarnessError(f"{path}: {place}expected a list of entries with {', '.join(sorted(needed))}")
    for number, row in enumerate(rows):
        lacking = needed - row.keys() if isinstance(row, dict) else needed
        if lacking:
            raise HarnessError(f"{path}: {each} {number} lacks {', '.join(sorted(lacking))}")
        for name in (IDS | NAMES) & row.keys():
            if not _is_id(row[name]):
                line = f"{path}: {each} {number} has the {name} {shown(row[name])}; expected a number or text"
                raise HarnessError(line)
    return rows


def lacking_key(key: Any, known: Any, what: str, where: str) -> str:
    """Why `where` has no `key` among the `known`: it is of another type there, or it is not there."""
    twin = next((other for other in (_as_number(key), str(key)) if other != key and other in known), None)
    if twin is None:
        return f"is of {what} {shown(key)}, which {where} lacks; add it or drop the entry"
    theirs, ours = ("a text", "a number") if isinstance(key, str) else ("a number", "a text")
    return f"is of {what} {shown(key)}, {theirs}; {where} has it as {ours}: write ids of one type in both"


def text_fault(value: Any) -> tuple[str, str] | None:
    """What keeps a value from being a text for people: a word for it, and the same as a sentence's end; None: nothing.

    Null, numbers and booleans are no texts, nor are blanks and signs without width alone.
    """
    if not isinstance(value, str) or not any(sign.isprintable() and not sign.isspace() for sign in value):
        if isinstance(value, str) and any("\ud800" <= sign <= "\udfff" for sign in value):
            return "broken", "holds half a character (a lone surrogate)"
        return "empty", "is empty or no text"
    if not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
        return "broken", "holds half a character (a lone surrogate)"
    if len(value) > TEXT_LIMIT_CHARACTERS:
        return "too long", f"has {len(value):,} characters, more than {TEXT_LIMIT_CHARACTERS:,}"
    return None


def words(value: Any) -> str:
    """A text without the blanks around it; empty for what is no text."""
    return "" if text_fault(value) else str(value).strip()


def patches_of(path: Path, row: Json) -> tuple[int, ...] | None:
    """The patches that a caption or a question of the built-in world speaks of."""
    patches = row.get("patches")
    if patches is None:
        return None
    if not isinstance(patches, list) or not all(type(one) is int and one >= 0 for one in patches):
        raise HarnessError(f"{path}: an entry has the patches {shown(patches)}; expected a list of indices")
    return tuple(patches)


def shown(value: Any) -> str:
    """A value in an error, cut where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_id(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and bool(value))


def _as_number(key: Any) -> Any:
    return int(key) if isinstance(key, str) and key.isdecimal() and len(key) < 19 else key
