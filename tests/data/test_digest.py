"""Facts about the digest of a data set: what changes it, what does not, and how long it takes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.data.digest import data_digest
from harness.kit.errors import HarnessError


def put(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    put(folder / "annotations" / "captions.json", json.dumps([{"image": "a.jpg", "caption": ["A"]}]))
    put(folder / "images" / "a.jpg", b"0123")
    put(folder / "images" / "b.jpg", b"4567")
    put(folder / "shards" / "0.tar", b"shard")
    put(folder / "words.txt", "one two")
    return folder


CHANGES: dict[str, Callable[[Path], object]] = {
    "an annotation of the same length": lambda data: put(data / "words.txt", "one tow"),
    "a new annotation": lambda data: put(data / "new.jsonl", "{}"),
    "an image of another size": lambda data: put(data / "images" / "a.jpg", b"01234"),
    "an image's name": lambda data: (data / "images" / "a.jpg").rename(data / "images" / "c.jpg"),
    "an image's folder": lambda data: (data / "images" / "a.jpg").rename(data / "a.jpg"),
    "an image less": lambda data: (data / "images" / "b.jpg").unlink(),
    "a shard of another size": lambda data: put(data / "shards" / "0.tar", b"shards"),
    "an empty folder, which may be a class": lambda data: (data / "images" / "owl").mkdir(),
}
NO_CHANGES: dict[str, Callable[[Path], object]] = {
    "an image of the same size": lambda data: put(data / "images" / "a.jpg", b"3210"),
    "a hidden file": lambda data: put(data / ".captions.json.swp", "left by an editor"),
    "a hidden folder": lambda data: put(data / ".cache" / "new.json", "{}"),
    "a file beside its image": lambda data: put(data / "images" / "a.json", "{}"),
    "times": lambda data: os.utime(data / "words.txt", (1, 1)),
    "the folder's place": lambda data: data.rename(data.parent / "elsewhere"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_makes_another_set(data: Path, change: Callable[[Path], object]) -> None:
    before = data_digest(data)
    change(data)
    assert data_digest(data) != before


@pytest.mark.parametrize("change", NO_CHANGES.values(), ids=NO_CHANGES)
def test_what_leaves_the_set_as_it_is(data: Path, change: Callable[[Path], object]) -> None:
    before = data_digest(data)
    change(data)
    now = data if data.exists() else data.parent / "elsewhere"
    assert data_digest(now) == before
    assert len(before) == 16
    assert int(before, 16)


def test_the_order_of_the_file_system_does_not_matter(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(20)] + ["b.txt", "a-b/c.txt", "a/c.txt"]
    for folder, order in (("one", names), ("other", list(reversed(names)))):
        for name in order:
            put(tmp_path / folder / name, name)
    assert data_digest(tmp_path / "one") == data_digest(tmp_path / "other")


def test_linked_folders_count_as_folders_and_a_circle_ends(data: Path) -> None:
    before = data_digest(data)
    (data / "images").rename(data.parent / "elsewhere")
    (data / "images").symlink_to(data.parent / "elsewhere", target_is_directory=True)
    (data / "images" / "loop").symlink_to(data, target_is_directory=True)
    assert data_digest(data) == before
    put(data.parent / "elsewhere" / "a.jpg", b"another")
    assert data_digest(data) != before


def test_a_file_stands_for_its_folder_read_from_there(data: Path) -> None:
    path = data / "annotations" / "captions.json"
    before = data_digest(path)
    assert before != data_digest(data)
    assert before != data_digest(data / "words.txt")
    put(data / "images" / "a.jpg", b"larger")
    changed = data_digest(path)
    assert changed != before
    put(path, "[]")
    assert data_digest(path) not in (before, changed)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="absent: no such folder or file; name one, or scenes"):
        data_digest(tmp_path / "absent")


def test_twenty_thousand_files_take_seconds(tmp_path: Path) -> None:
    for number in range(20_000):
        if number % 1000 == 0:
            (tmp_path / str(number)).mkdir()
        (tmp_path / str(number - number % 1000) / f"{number}.{'jpg' if number % 2 else 'txt'}").write_bytes(b"x")
    before = time.process_time()
    data_digest(tmp_path)
    assert time.process_time() - before < 3
