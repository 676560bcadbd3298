"""Facts about the canonical order of a set: annotation files may list images as they like."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.data.formats import (
    ImageTextSet,
    PairStatement,
    load_captions,
    load_classes,
    load_entailment,
    load_nlvr2,
    load_questions,
)

Row = dict[str, Any]
IMAGES = {number: f"{folder}/{number:012d}.jpg" for number, folder in ((1, "b"), (2, "a"), (3, "a-c"), (12, "a"))}
SEEDS = range(8)


def shuffled(rows: list[Row], image_of: Callable[[Row], object], seed: int) -> list[Row]:
    """The rows with those of different images in another order, those of one image in their own."""
    order = [image_of(row) for row in rows]
    random.Random(seed).shuffle(order)
    waiting = {key: iter(list(group)) for key, group in groupby(sorted(rows, key=by(image_of)), by(image_of))}
    return [next(waiting[str(key)]) for key in order]


def by(image_of: Callable[[Row], object]) -> Callable[[Row], str]:
    return lambda row: str(image_of(row))


def put(path: Path, content: Any) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def write_captions(folder: Path, seed: int) -> None:
    rows = [
        {"image_id": key, "id": 10 * key + one, "caption": f"{one} of {key}"} for key in IMAGES for one in (2, 1, 3)
    ]
    images = shuffled([{"id": key, "file_name": name} for key, name in IMAGES.items()], lambda row: row["id"], seed)
    put(folder / "c.json", {"images": images, "annotations": shuffled(rows, lambda row: row["image_id"], seed)})


def write_questions(folder: Path, seed: int) -> None:
    rows = [
        {"question_id": 10 * key + one, "image_id": key, "question": f"{one}?", "answers": [{"answer": "a"}] * 10}
        for key in IMAGES
        for one in (2, 1)
    ]
    put(folder / "q.json", {"questions": shuffled(rows, lambda row: row["image_id"], seed)})
    put(folder / "a.json", {"annotations": shuffled(rows, lambda row: row["image_id"], seed + 1)})


def write_entailment(folder: Path, seed: int) -> None:
    rows = [
        {"Flickr30K_ID": Path(name).stem, "pairID": f"{key}#{one}", "sentence2": f"{one}.", "gold_label": label}
        for key, name in IMAGES.items()
        for one, label in ((2, "neutral"), (1, "entailment"))
    ]
    put(folder / "e.jsonl", "\n".join(map(json.dumps, shuffled(rows, lambda row: row["Flickr30K_ID"], seed))))


def write_statements(folder: Path, seed: int) -> None:
    pairs = [(number, f"dev-{number}-0") for number in (7, 10, 8)]
    for number, pair in pairs:
        for side in (0, 1):
            # Neither by name nor by number: the folder comes first.
            path = folder / ("a" if number == 8 else "b") / f"{pair}-img{side}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
    rows = [
        {"identifier": f"{pair}-{one}", "sentence": f"{one}.", "label": str(one == 1)}
        for _, pair in pairs
        for one in (2, 1)
    ]
    put(folder / "n.json", "\n".join(map(json.dumps, shuffled(rows, lambda row: row["identifier"][:-2], seed))))


SETS: dict[str, tuple[Callable[[Path, int], None], Callable[[Path], ImageTextSet]]] = {
    "captions": (write_captions, load_captions),
    "questions": (write_questions, load_questions),
    "hypotheses": (write_entailment, load_entailment),
    "statements": (write_statements, load_nlvr2),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in IMAGES.values():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("field", SETS)
def test_files_that_list_images_in_another_order_give_the_same_set(folder: Path, field: str) -> None:
    write, load = SETS[field]
    found = []
    for seed in SEEDS:
        write(folder, seed)
        found.append(load(folder))
    assert len({one.images for one in found}) > 1
    assert {one.in_order() for one in found} == {found[0].in_order()}
    assert set(getattr(found[0].in_order(), field)) == set(getattr(found[0], field))


def test_images_go_by_folder_and_what_is_said_of_one_as_in_the_file(folder: Path) -> None:
    write_captions(folder, 0)
    found = load_captions(folder).in_order()
    # a before a-c, which plain text would put first.
    assert [int(image.stem) for image in found.images] == [2, 12, 3, 1]
    assert [caption.id for caption in found.captions] == [22, 21, 23, 122, 121, 123, 32, 31, 33, 12, 11, 13]


def test_statements_go_by_their_first_image_and_then_the_second() -> None:
    def about(number: int, first: str, second: str) -> PairStatement:
        return PairStatement(number, (Path(first), Path(second)), "Same.", True, "g")

    given = (about(0, "b", "a"), about(1, "a", "c"), about(2, "a", "b"), about(3, "b", "a"), about(4, "a", "b"))
    found = ImageTextSet((Path("b"), Path("a"), Path("c")), statements=given).in_order()
    assert [one.id for one in found.statements] == [2, 4, 1, 0, 3]
    assert found.images == (Path("a"), Path("b"), Path("c"))


def test_labels_still_mean_the_same_class(tmp_path: Path) -> None:
    for name in ("dog/1", "dog/2", "ape/3", "owl/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    found = load_classes(tmp_path).in_order()
    assert [(one.id, found.classes[one.label]) for one in found.classified] == [
        ("ape/3.png", "ape"),
        ("dog/1.png", "dog"),
        ("dog/2.png", "dog"),
        ("owl/1.png", "owl"),
    ]
    assert found.images == tuple(one.image for one in found.classified)


def test_order_twice_is_order_once(folder: Path) -> None:
    write_questions(folder, 3)
    found = load_questions(folder).in_order()
    assert found.in_order() == found
