"""Captions and references as COCO's evaluation reads them: a JSON list of results, and a captions JSON.

Read here and not by pycocotools' COCO and loadRes: those print to stdout, and say of ids that do not fit only that they
do not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.data.annotations.report import counted
from harness.data.annotations.rows import Json, rows_with, words
from harness.kit.errors import HarnessError
from harness.kit.reading import read_json

SHOWN_IDS = 3


def is_json(path: Path, text: str) -> bool:
    """Whether a file is to be read as JSON: by its name, or because it is; captions of a line each may begin with [."""
    if path.suffix.lower() == ".json":
        return True
    try:
        return isinstance(json.loads(text), (list, dict))
    except (ValueError, RecursionError):
        return False


def coco_pairs(results: Path, references: Path) -> tuple[list[str], list[list[str]]]:
    """The caption predicted for each image of the references, and its references, in their order.

    `results`: [{"image_id", "caption"}]. `references`: {"images": [{"id"}], "annotations": [{"image_id", "caption"}]}.
    Raises HarnessError, one line that counts and names the first ids: for images listed twice or without a reference,
    references of images that are not listed, and predictions that are missing, twice, or of other images.
    """
    by_image = _references(references)
    rows = rows_with(results, _content(results, list, "a JSON list of image_id and caption"), {"image_id", "caption"})
    texts = {row["image_id"]: _text(results, row) for row in rows}
    if twice := _repeated(row["image_id"] for row in rows):
        raise _about(twice, f"{results}: predicts {counted(len(twice), 'image')} twice", "keep one caption each")
    if unknown := [key for key in texts if key not in by_image]:
        line = f"{results}: {len(unknown):,} of {len(rows):,} predictions are of images that {references} lacks"
        raise _about(unknown, line, "leave them out or name the references they belong to")
    if missing := [key for key in by_image if key not in texts]:
        line = f"{results}: no prediction for {len(missing):,} of {len(by_image):,} images of {references}"
        raise _about(missing, line, "caption them all, or leave those images out of the references")
    return [texts[key] for key in by_image], list(by_image.values())


def _references(path: Path) -> dict[Any, list[str]]:
    """image id -> its references, of every image."""
    content = _content(path, dict, 'COCO captions JSON ({"images": […], "annotations": […]})')
    images = rows_with(path, content.get("images"), {"id"})
    rows = rows_with(path, content.get("annotations"), {"image_id", "caption"})
    by_image: dict[Any, list[str]] = {row["id"]: [] for row in images}
    if twice := _repeated(row["id"] for row in images):
        raise _about(twice, f"{path}: lists {counted(len(twice), 'image')} twice", "keep one entry each")
    if unknown := list(dict.fromkeys(row["image_id"] for row in rows if row["image_id"] not in by_image)):
        line = f"{path}: has references of {counted(len(unknown), 'image')} that it does not list"
        raise _about(unknown, line, 'add them to "images" or drop the references')
    for row in rows:
        if text := _text(path, row):
            by_image[row["image_id"]].append(text)
    if bare := [key for key, texts in by_image.items() if not texts]:
        line = f"{path}: {len(bare):,} of {len(by_image):,} images have no reference"
        raise _about(bare, line, "add one each or leave the images out")
    return by_image


def _content(path: Path, kind: type, expected: str) -> Any:
    content = read_json(path)
    if not isinstance(content, kind) or not content:
        raise HarnessError(f"{path}: expected {expected}")
    return content


def _text(path: Path, row: Json) -> str:
    if not isinstance(row["caption"], str):
        raise HarnessError(f"{path}: the caption of image {row['image_id']} is no text but {row['caption']!r:.60}")
    return words(row["caption"])


def _repeated(ids: Iterable[Any]) -> list[Any]:
    return [one for one, count in Counter(ids).items() if count > 1]


def _about(ids: list[Any], line: str, remedy: str) -> HarnessError:
    """The error of some ids, the first of them as JSON has them: the text "7" is another id than the number 7."""
    first = ", ".join(json.dumps(one) for one in ids[:SHOWN_IDS]) + (", …" if len(ids) > SHOWN_IDS else "")
    return HarnessError(f"{line} (first: {first}); {remedy}")
