"""What an annotation file is, told by the fields of its first entry, and the splits it says it holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from harness.data.formats.files import Json


class Kind(Enum):
    """What a file, or a folder of files, is."""

    COCO_CAPTIONS = "COCO captions"
    KARPATHY = "Karpathy's captions"
    ENTITIES = "Flickr30k Entities sentences"
    CAPTION_LIST = "ALBEF/BLIP captions"
    PAIRS = "image-text pairs for pre-training"
    CAPTION_REFERENCES = "BLIP's reference captions"
    VQA_QUESTIONS = "VQA v2 questions"
    VQA_ANNOTATIONS = "VQA v2 annotations"
    ALBEF_VQA = "ALBEF questions"
    ALBEF_VQA_UNANSWERED = "ALBEF questions without answers"
    SNLI_VE = "SNLI-VE sentences"
    ALBEF_VE = "ALBEF entailment sentences"
    NLVR2 = "NLVR2 statements"
    ALBEF_NLVR = "ALBEF statements about image pairs"
    SHARDS = "webdataset shard"
    CLASS_FOLDERS = "a folder of images per class"
    CLASS_NAMES = "class names"
    TEMPLATES = "templates of sentences about a class"
    ANSWER_LIST = "answer list"
    SPLIT_LIST = "list of a split's images"
    SENTENCES = "sentences, one per line"
    UNKNOWN = "not recognised"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Found:
    """A file (for ENTITIES and CLASS_FOLDERS a folder) and what it is.

    `splits` that it holds, as far as its content or its name says. `subset`: VQA v2's data_subtype. `reason`: why it
    is unreadable.
    """

    path: Path
    kind: Kind
    splits: tuple[str, ...] = ()
    subset: str = ""
    reason: str = ""


_SPLIT_WORD = re.compile(r"(?<![a-z])(train|restval|validation|valid|val|dev|test)(?![a-z])", re.IGNORECASE)
_VALIDATION = ("valid", "validation")


def split_named(name: str) -> str | None:
    """The split that a name tells of (train2014, test1, tiny-dev): train, restval, val, dev or test."""
    match = _SPLIT_WORD.search(name)
    if match is None:
        return None
    word = match[1].lower()
    return "val" if word in _VALIDATION else word


def is_captions(content: Any) -> bool:
    """Whether a JSON file's content is COCO captions."""
    return "caption" in _first(content, "annotations") and "file_name" in _first(content, "images")


def kind_of(content: Any) -> Kind:
    """What the content of a JSON file is."""
    if isinstance(content, dict):
        return next((kind for holds, kind in _OBJECTS if holds(content)), Kind.UNKNOWN)
    if not isinstance(content, list) or not content:
        return Kind.UNKNOWN
    if all(isinstance(one, str) for one in content):
        return Kind.TEMPLATES if all("{}" in one for one in content) else Kind.ANSWER_LIST
    first = content[0] if isinstance(content[0], dict) else {}
    return next((kind for holds, kind in _ROWS if holds(first)), Kind.UNKNOWN)


def splits_of(path: Path, kind: Kind, content: Any) -> tuple[str, ...]:
    """The splits of a file: of its entries where they say, or else the one that the file's name tells of."""
    if kind is Kind.KARPATHY:
        told = [row.get("split") for row in content["images"] if isinstance(row, dict)]
    elif kind is Kind.NLVR2:
        rows = content if isinstance(content, list) else [content]
        told = [split_named(str(row.get("identifier"))) for row in rows if isinstance(row, dict)]
    else:
        told = [split_named(subset_of(kind, content)) or split_named(path.stem)]
    return tuple(dict.fromkeys(str(one) for one in told if one))


def subset_of(kind: Kind, content: Any) -> str:
    """VQA v2's data_subtype, which also stands in the names of its images; empty where it is left out."""
    return str(content.get("data_subtype", "")) if kind in (Kind.VQA_QUESTIONS, Kind.VQA_ANNOTATIONS) else ""


def _first(content: Any, key: str) -> Json:
    rows = content.get(key) if isinstance(content, dict) else None
    return rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}


def _has(*fields: str) -> Callable[[Json], bool]:
    return lambda row: all(field in row for field in fields)


def _is_caption_list(row: Json) -> bool:
    # Pre-training lists may hold lists of captions too; nothing tells them from a retrieval set's test split.
    return _has("image", "caption")(row) and (isinstance(row["caption"], list) or "image_id" in row)


_ROWS: Sequence[tuple[Callable[[Json], bool], Kind]] = (
    (_has("Flickr30K_ID", "sentence2", "gold_label"), Kind.SNLI_VE),
    (_has("identifier", "sentence", "label"), Kind.NLVR2),
    (_has("images", "sentence", "label"), Kind.ALBEF_NLVR),
    (_has("image", "sentence", "label"), Kind.ALBEF_VE),
    (_has("image", "question", "answer"), Kind.ALBEF_VQA),
    (_has("image", "question"), Kind.ALBEF_VQA_UNANSWERED),
    (_is_caption_list, Kind.CAPTION_LIST),
    (_has("image", "caption"), Kind.PAIRS),
)
_OBJECTS: Sequence[tuple[Callable[[Json], bool], Kind]] = (
    (is_captions, Kind.COCO_CAPTIONS),
    (lambda content: _has("filename", "sentences")(_first(content, "images")), Kind.KARPATHY),
    (lambda content: _has("image_id", "caption")(_first(content, "annotations")), Kind.CAPTION_REFERENCES),
    (lambda content: _has("question_id", "question")(_first(content, "questions")), Kind.VQA_QUESTIONS),
    (lambda content: _has("question_id", "answers")(_first(content, "annotations")), Kind.VQA_ANNOTATIONS),
    *_ROWS[:2],  # JSON lines of which there is only one.
)
