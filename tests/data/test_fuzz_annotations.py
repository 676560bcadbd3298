"""Annotation files of every format, damaged at random: the answer is a report or one line, soon, and counts are right.

The draws are the same on every run, and end with the time that is set for them.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from harness.check.data import lines
from harness.data.annotations.source import OpenedSource, load
from harness.data.formats import load_unanswered
from harness.data.pairs import read_pairs
from harness.kit.errors import HarnessError
from harness.kit.registry import formats


def shard() -> bytes:
    """A tar of two samples, an image and a text each."""
    out, picture = io.BytesIO(), io.BytesIO()
    Image.new("L", (4, 4)).save(picture, "PNG")
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("a", "b"):
            for suffix, content in (("png", picture.getvalue()), ("txt", b"A caption")):
                member = tarfile.TarInfo(f"{name}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


SHARD = shard()
SECONDS = 6.0
SLOWEST = 5.0
Written = dict[str, Any]
# By the field that they fill, as files of each format.
SETS: dict[str, tuple[str, Written]] = {
    "coco_captions": (
        "captions",
        {
            "c.json": {
                "images": [{"id": one, "file_name": f"{one}.jpg"} for one in (1, 2)],
                "annotations": [{"id": one, "image_id": one, "caption": f"A {one}"} for one in (1, 2)],
            }
        },
    ),
    "karpathy": (
        "captions",
        {
            "k.json": {
                "images": [
                    {"filename": f"{one}.jpg", "split": split, "sentences": [{"raw": "A", "sentid": one}]}
                    for one, split in ((1, "train"), (2, "test"))
                ]
            }
        },
    ),
    "caption_list": ("captions", {"l.json": [{"image": f"{one}.jpg", "caption": ["A", "B"]} for one in (1, 2)]}),
    "pairs_list": ("captions", {"p.json": [{"image": f"{one}.jpg", "caption": "A"} for one in (1, 2)]}),
    "caption_references": ("captions", {"g.json": {"annotations": [{"image_id": 3, "id": 1, "caption": "A"}]}}),
    "flickr30k_lines": ("captions", {"r.token": "1.jpg#0\tA dog .\n2.jpg#0\tA cat .\n"}),
    "flickr30k_entities": ("captions", {"s/1.txt": "[/EN#1/people A girl] sits .\n", "test.txt": "1\n"}),
    "vqa_v2": (
        "questions",
        {
            "q.json": {"questions": [{"question_id": one, "image_id": 3, "question": "What?"} for one in (1, 2)]},
            "a.json": {"annotations": [{"question_id": one, "answers": [{"answer": "a"}] * 3} for one in (1, 2)]},
            "answers.json": ["a", "b"],
        },
    ),
    "vqa_list": (
        "questions",
        {"v.json": [{"image": "1.jpg", "question": "What?", "question_id": one, "answer": ["a"]} for one in (1, 2)]},
    ),
    "vqa_list_unanswered": ("", {"u.json": [{"image": "1.jpg", "question": "What?", "question_id": 1}]}),
    "snli_ve": (
        "hypotheses",
        {"e.jsonl": [{"Flickr30K_ID": "1", "sentence2": "A", "gold_label": "neutral", "pairID": "1#0"}]},
    ),
    "entailment_list": ("hypotheses", {"e.json": [{"image": "1", "sentence": "A", "label": "entailment"}]}),
    "nlvr2": ("statements", {"n.json": [{"identifier": "dev-1-0-0", "sentence": "A", "label": "True"}]}),
    "nlvr2_list": ("statements", {"n.json": [{"images": ["1.jpg", "2.jpg"], "sentence": "A", "label": "True"}]}),
    "class_folders": ("classified", {"classes.json": {"ape": "monkey", "dog": "hound"}, "t.txt": "a {}.\n"}),
    "webdataset": ("", {"0.tar": SHARD}),
    "sentences": ("", {"hyp.txt": "A cat\nA dog\n", "ref.txt": "One cat\nOne dog\n"}),
}
VALUES = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1.5,
        float("nan"),
        10**30,
        "",
        " ",
        "1",
        "\u200b",
        "half \ud83d",
        "x" * 200,
        [],
        [None],
        {},
        "../x",
    ]
    + ["test", "tset", "/etc/passwd", "a\0b", ["A", 3], [[]], {"caption": 1}, "1.jpg", "2.jpg", "neutral"]
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield from places(one, (*path, key))


def changed(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A JSON value with another one at a place; the change may ask for it to go by raising KeyError."""
    if not path:
        return change(value)
    copy = dict(value) if isinstance(value, dict) else list(value)
    try:
        copy[path[0]] = changed(copy[path[0]], path[1:], change)
    except KeyError:
        del copy[path[0]]
    return copy


def gone(value: Any) -> Any:
    raise KeyError


def in_bytes(content: Any) -> bytes:
    """A file's content, as text, bytes or JSON."""
    if isinstance(content, bytes):
        return content
    return content.encode() if isinstance(content, str) else json.dumps(content).encode()


@st.composite
def damaged(draw: st.DrawFn, content: Any) -> bytes:
    """A file's content with a value changed, left out or repeated, or with bytes cut or changed."""
    if not isinstance(content, str | bytes):
        for _ in range(draw(st.integers(1, 2))):
            path = draw(st.sampled_from(list(places(content))))
            what = draw(st.sampled_from(["other", "gone", "twice"]))
            if what == "gone" and path:
                content = changed(content, path, gone)
            elif what == "twice":
                content = changed(content, path, lambda one: one + one if isinstance(one, (list, str)) else [one, one])
            else:
                other = draw(VALUES)
                content = changed(content, path, lambda one, other=other: other)
    data = in_bytes(content)
    if isinstance(content, str | bytes) or draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        data = data[:at] + draw(st.sampled_from([b"", data[at + 1 :], b"\xff" + data[at:], b"\0" + data[at:], b"\n"]))
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that the files are about; `write` puts one set beside them."""
    root = tmp_path_factory.mktemp("fuzz")
    for number, name in enumerate(("1.jpg", "2.jpg", "COCO_val2014_000000000003.jpg", "dev-1-0-img0.png")):
        Image.new("L", (4, 4), number).save(root / name)
    Image.new("L", (4, 4), 9).save(root / "dev-1-0-img1.png")
    return root


def write(root: Path, contents: dict[str, bytes]) -> Path:
    here = root / "set"
    if here.exists():
        for path in sorted(here.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    here.mkdir(exist_ok=True)
    names = [one.name for one in root.iterdir() if one.is_file()]
    images = here / "ape" if "classes.json" in contents else here / "images"
    for number, name in enumerate(names):
        place = images if images.name == "images" or number % 2 else here / "dog"
        place.mkdir(exist_ok=True)
        (place / name).symlink_to(root / name)
    for name, data in contents.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(data)
    return here


def undamaged(files: Written) -> dict[str, bytes]:
    return {name: in_bytes(one) for name, one in files.items()}


def test_every_format_is_damaged() -> None:
    assert set(SETS) == set(formats.names())


@pytest.mark.parametrize("name", SETS)
def test_the_sets_are_read_before_they_are_damaged(folder: Path, name: str) -> None:
    fills, files = SETS[name]
    here = write(folder, undamaged(files))
    assert all(good for _, good in lines(here))
    assert not fills or getattr(load(fills, here), fills)


def one_line(action: Callable[[], Any]) -> Any:
    """What an action gives, or None where it ends with an error in one line."""
    try:
        return action()
    except HarnessError as error:
        line = str(error)
    assert "\n" not in line
    return None


@pytest.mark.parametrize("name", SETS)
def test_damage_gives_a_report_or_a_line_and_no_wrong_count(folder: Path, name: str) -> None:
    fills, files = SETS[name]
    end = time.monotonic() + SECONDS / 2

    @seed(20240706)
    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def damage(data: st.DataObject) -> None:
        which = data.draw(st.sampled_from(sorted(files)))
        content = data.draw(damaged(files[which]))
        if time.monotonic() > end:
            return
        here = write(folder, undamaged(files) | {which: content})
        began = time.monotonic()
        found = one_line(lambda: lines(here))
        assert time.monotonic() - began < SLOWEST
        whole = None if not fills else one_line(lambda: load(fills, here))
        one_line(lambda: load_unanswered(here))
        one_line(lambda: read_pairs(here, warn=lambda line: None))
        if whole is not None:
            annotated = getattr(whole, fills)
            assert annotated
            assert found is not None
            counted = " ".join(line for line, _ in found)
            with contextlib.suppress(HarnessError):
                assert fills in OpenedSource(here).fields()
            noun = {"captions": "caption", "questions": "question", "hypotheses": "sentence"}.get(fills, "")
            assert not noun or f"{len(annotated):,} {noun}" in counted
            for one in annotated:
                text = getattr(one, "text", "a")
                assert isinstance(text, str)
                assert text.strip()
                assert str(text).isprintable() or "\n" in text or "\0" in text

    damage()
