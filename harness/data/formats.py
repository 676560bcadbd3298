"""Annotation files as their publishers ship them -> images with captions or questions.

Files are recognised by content, not by name. COCO captions: images[{id, file_name}] and annotations[{image_id,
caption}]. VQA v2: questions[{question_id, image_id, question}] and annotations[{question_id, answers}]; samples and
mirrors leave image_id out of the annotations, so the question carries the image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_NUMBERED = re.compile(r"(?:^|_)(\d{12})$")
Json = dict[str, Any]


@dataclass(frozen=True)
class Caption:
    """A caption of an image; `patches` (row-major indices) where the set knows what it speaks of."""

    id: int
    image: Path
    text: str
    patches: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Question:
    """A question about an image with its annotators' answers; `patches` as for captions."""

    id: int
    image: Path
    text: str
    answers: tuple[str, ...]
    patches: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ImageTextSet:
    """Images in the set's own order, each once, with the captions or questions about them."""

    images: tuple[Path, ...]
    captions: tuple[Caption, ...] = ()
    questions: tuple[Question, ...] = ()


def load_captions(folder: Path | str, limit: int | None = None) -> ImageTextSet:
    """COCO captions of a folder; `limit` keeps the first images that have captions.

    Raises HarnessError, one line, for a folder without such files, malformed files, and missing images.
    """
    folder = _existing(folder)
    path, content = _only(folder, "COCO captions", is_captions)
    names = {image["id"]: image["file_name"] for image in rows_with(path, content["images"], {"id", "file_name"})}
    rows = rows_with(path, content["annotations"], {"image_id", "caption"})
    for row in rows:
        if row["image_id"] not in names:
            raise HarnessError(f"{path}: caption {row.get('id')} is of image {row['image_id']}, which the file lacks")
    described = {row["image_id"] for row in rows}
    wanted = [key for key in names if key in described][:limit]
    by_name = {image.name: image for image in _image_files(folder)}
    found = {key: _named(path, folder, names[key], by_name) for key in wanted}
    captions = tuple(
        Caption(row.get("id", number), found[row["image_id"]], str(row["caption"]).strip(), _patches(row))
        for number, row in enumerate(rows)
        if row["image_id"] in found
    )
    return ImageTextSet(tuple(found.values()), captions=captions)


def load_questions(folder: Path | str, limit: int | None = None) -> ImageTextSet:
    """VQA v2 questions of a folder with their answers; `limit` keeps the first images asked about.

    Raises HarnessError, one line, for a folder without such files, malformed files, unanswered questions, and
    missing images.
    """
    folder = _existing(folder)
    path, asked = _only(folder, "VQA v2 questions", _is_questions)
    answered_path, answered = _only(folder, "VQA v2 annotations", _is_answers)
    answers = {
        row["question_id"]: row for row in rows_with(answered_path, answered["annotations"], {"question_id", "answers"})
    }
    rows = rows_with(path, asked["questions"], {"question_id", "image_id", "question"})
    by_number = _by_number(_image_files(folder))
    wanted = list(dict.fromkeys(row["image_id"] for row in rows))[:limit]
    found = {key: _numbered(path, key, asked.get("data_subtype"), by_number) for key in wanted}
    questions = []
    for row in rows:
        if row["image_id"] not in found:
            continue
        if row["question_id"] not in answers:
            raise HarnessError(f"{answered_path}: no annotation for question {row['question_id']} of {path.name}")
        answer = answers[row["question_id"]]
        texts = tuple(str(one["answer"]) for one in rows_with(answered_path, answer["answers"], {"answer"}))
        image = found[row["image_id"]]
        questions.append(Question(row["question_id"], image, str(row["question"]).strip(), texts, _patches(answer)))
    return ImageTextSet(tuple(found.values()), questions=tuple(questions))


def _existing(folder: Path | str) -> Path:
    path = Path(folder)
    if not path.is_dir():
        raise HarnessError(f"data folder {path}: no such folder; name one, or scenes for the built-in world")
    return path


def _only(folder: Path, kind: str, recognised: Any) -> tuple[Path, Json]:
    found = [(path, content) for path, content in _json_files(folder) if recognised(content)]
    if not found:
        raise HarnessError(f"data folder {folder}: no {kind} JSON in it; expected the set as its publisher ships it")
    if len(found) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path, _ in found)
        raise HarnessError(f"data folder {folder}: several {kind} files ({names}); keep one split in a folder")
    return found[0]


def _json_files(folder: Path) -> Iterable[tuple[Path, Any]]:
    for path in sorted(folder.rglob("*.json")):
        try:
            yield path, json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise HarnessError(f"{path}: not valid JSON ({reason}); fetch the file again") from error
        except OSError as error:
            raise HarnessError(f"{path}: cannot be read ({error.strerror})") from error


def _first(content: Any, key: str) -> Json:
    rows = content.get(key) if isinstance(content, dict) else None
    return rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}


def is_captions(content: Any) -> bool:
    """Whether a JSON file's content is COCO captions."""
    return "caption" in _first(content, "annotations") and "file_name" in _first(content, "images")


def _is_questions(content: Any) -> bool:
    return "question" in _first(content, "questions")


def _is_answers(content: Any) -> bool:
    return "answers" in _first(content, "annotations")


def rows_with(path: Path, rows: Any, needed: set[str]) -> list[Json]:
    """The entries of a list in a JSON file, each with the needed keys; HarnessError names the first that lacks one."""
    if not isinstance(rows, list):
        raise HarnessError(f"{path}: expected a list of entries with {', '.join(sorted(needed))}")
    for number, row in enumerate(rows):
        lacking = needed - row.keys() if isinstance(row, dict) else needed
        if lacking:
            raise HarnessError(f"{path}: entry {number} lacks {', '.join(sorted(lacking))}")
    return rows


def _patches(row: Json) -> tuple[int, ...] | None:
    return tuple(row["patches"]) if "patches" in row else None


def _image_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]


def _named(source: Path, folder: Path, name: str, by_name: dict[str, Path]) -> Path:
    direct = folder / name
    found = direct if direct.is_file() else by_name.get(Path(name).name)
    if found is None:
        raise HarnessError(f"{source}: names the image {name}, which is not under {folder}")
    return found


def _by_number(paths: Iterable[Path]) -> dict[int, list[Path]]:
    """Image files by the twelve-digit number that ends their names (COCO_val2014_000000262148.jpg)."""
    numbered: dict[int, list[Path]] = {}
    for path in paths:
        match = _NUMBERED.search(path.stem)
        if match:
            numbered.setdefault(int(match[1]), []).append(path)
    return numbered


def _numbered(source: Path, number: Any, subset: Any, by_number: dict[int, list[Path]]) -> Path:
    """The image of a question: the subset's own file where several bear the number."""
    candidates = by_number.get(number, []) if isinstance(number, int) else []
    if not candidates:
        raise HarnessError(
            f"{source}: names image {number}, but no COCO_SUBSET_{number:0>12}.jpg (or .png) is in the folder"
        )
    return next((path for path in candidates if subset and str(subset) in path.name), candidates[0])
