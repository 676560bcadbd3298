"""What classes are called: from a file beside their folders, in any of the usual forms, or from the folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.kit.reading import read_json, text_lines


def class_order(folders: Sequence[str]) -> list[str]:
    """Folder names in the order of labels: by number where all are numbers, or else by letter."""
    numbered = all(name.isdecimal() for name in folders)
    return sorted(folders, key=int) if numbered else sorted(folders)


def class_names(path: Path, folders: Sequence[str]) -> tuple[str, ...] | None:
    """The names that a file gives the classes of these folders, in `class_order`; None where it gives them none.

    JSON: a list of names; {folder: name}; {"0": [folder, name]}. Text: a name per line, or "folder name". Of several
    names with commas between them the first is taken.
    """
    order = class_order(folders)
    is_json = path.suffix.lower() == ".json"
    found = _of_json(read_json(path), order) if is_json else _of_lines(text_lines(path), order)
    return None if found is None else tuple(name.split(",")[0].strip() for name in found)


def folder_names(folders: Sequence[str]) -> tuple[str, ...]:
    """The folders' own names as words: hot_dog is a hot dog."""
    return tuple(name.replace("_", " ").strip() for name in class_order(folders))


def _of_json(content: Any, order: Sequence[str]) -> list[str] | None:
    if isinstance(content, list):
        return _in_order(content, order)
    if not isinstance(content, dict):
        return None
    pairs = [value for value in content.values() if isinstance(value, list) and len(value) == 2]
    return _looked_up({str(folder): name for folder, name in pairs} if pairs else content, order)


def _of_lines(lines: Sequence[str], order: Sequence[str]) -> list[str] | None:
    split = [line.replace("\t", " ").partition(" ") for line in lines]
    given = {folder.rstrip(",:"): name.strip() for folder, _, name in split if name.strip()}
    return _looked_up(given, order) or _in_order(lines, order)


def _in_order(names: Sequence[Any], order: Sequence[str]) -> list[str] | None:
    fitting = len(names) == len(order) and all(isinstance(name, str) and "{}" not in name for name in names)
    return list(names) if fitting else None


def _looked_up(given: Mapping[str, Any], order: Sequence[str]) -> list[str] | None:
    found = [given.get(folder) for folder in order]
    return [str(name) for name in found] if all(isinstance(name, str) for name in found) else None
