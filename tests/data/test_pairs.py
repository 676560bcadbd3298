"""Facts about reading pairs: formats are known by content, keys are stable, and one line says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.data.pairs import PairRef, caption_of, draw, read_pairs, sample_id, unique_keys
from harness.kit.errors import HarnessError


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


def no_warning(line: str) -> None:
    raise AssertionError(line)


def coco(folder: Path, images: str = "train2017") -> Path:
    for number in (7, 8):
        picture(folder / images / f"{number:012d}.jpg")
    content = {
        "images": [{"id": number, "file_name": f"{number:012d}.jpg"} for number in (7, 8, 9)],
        "annotations": [
            {"image_id": 8, "id": 1, "caption": "A cat."},
            {"image_id": 7, "id": 2, "caption": "A dog. "},
            {"image_id": 7, "id": 3, "caption": "Dog"},
        ],
    }
    return put(folder / "annotations" / "any_name.json", content)


def test_albef_captions_are_one_text_or_several(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "images" / f"{name}.jpg")
    rows = [
        {"image": "images/a.jpg", "caption": " A dog ", "image_id": "1"},
        {"image": "./images/b.jpg", "caption": ["B", "C"]},
        {"image": "images/a.jpg", "caption": "Again a dog"},
    ]
    assert read_pairs(put(tmp_path / "x.json", rows), warn=no_warning).refs == [
        PairRef("images/a.jpg#0", tmp_path / "images/a.jpg", ("A dog",)),
        PairRef("images/b.jpg#0", tmp_path / "images/b.jpg", ("B", "C")),
        PairRef("images/a.jpg#1", tmp_path / "images/a.jpg", ("Again a dog",)),
    ]


def test_images_are_below_the_root_beside_the_file_or_absolute(tmp_path: Path) -> None:
    root = tmp_path / "root"
    picture(root / "a.jpg")
    picture(root / "deep" / "b.jpg")
    picture(tmp_path / "json" / "c.jpg")
    rows = [{"image": name, "caption": "x"} for name in ("a.jpg", str(root / "deep" / "b.jpg"), "c.jpg")]
    pairs = read_pairs(put(tmp_path / "json" / "x.json", rows), root, no_warning).refs
    assert [pair.key for pair in pairs] == ["a.jpg#0", "deep/b.jpg#0", "c.jpg#0"]
    assert all(isinstance(pair.image, Path) and pair.image.is_file() for pair in pairs)


@pytest.mark.parametrize("images", [".", "train2017", "annotations", "images/train2017"])
def test_coco_has_one_pair_per_described_image_wherever_the_images_lie(tmp_path: Path, images: str) -> None:
    path = coco(tmp_path, images)
    pairs = read_pairs(path, warn=no_warning).refs
    assert [(pair.key, pair.captions) for pair in pairs] == [
        ("000000000007.jpg#0", ("A dog.", "Dog")),
        ("000000000008.jpg#0", ("A cat.",)),
    ]
    assert read_pairs(tmp_path, warn=no_warning).refs == pairs


def test_coco_images_are_found_under_the_root(tmp_path: Path) -> None:
    path = coco(tmp_path / "a")
    (tmp_path / "a" / "train2017").rename(tmp_path / "b")
    assert {pair.image for pair in read_pairs(path, tmp_path / "b", no_warning).refs} == set((tmp_path / "b").iterdir())


def test_missing_images_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "b.jpg")
    rows = [{"image": f"{name}.jpg", "caption": "x"} for name in "abc"]
    lines: list[str] = []
    pairs = read_pairs(put(tmp_path / "x.json", rows), warn=lines.append)
    assert (len(pairs.refs), pairs.unusable) == (3, 2)
    assert len(lines) == 1
    assert "2 of 3 images do not exist (first a.jpg)" in lines[0]


def test_a_file_none_of_whose_images_exists_is_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "x.json", [{"image": "a.jpg", "caption": "x"}])
    with pytest.raises(HarnessError, match=r"none of its 1 images exists \(first .*a.jpg\)"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "x.json: is empty"),
        ('[{"image": ', r"not valid JSON \(Expecting value: line 1 column 12"),
        ("[]", "no captions in it; expected one of"),
        ({"rows": []}, "no captions in it; expected one of"),
        ([{"image": "a.jpg"}], "no captions in it; expected one of"),
        ([{"image": "a.jpg", "caption": "x"}, {"caption": "x"}], "entry 1 lacks image"),
        ([{"image": "", "caption": "x"}], "entry 0 has the image ''"),
        ([{"image": "a.jpg", "caption": "  "}], "caption 0 is empty or no text"),
        ([{"image": "a.jpg", "caption": []}], "entry 0 has an empty caption"),
        ([{"image": "a.jpg", "caption": ["x", ""]}], "caption 1 is empty or no text"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path: Path, content: Any, message: str) -> None:
    picture(tmp_path / "a.jpg")
    with pytest.raises(HarnessError, match=message) as caught:
        read_pairs(put(tmp_path / "x.json", content))
    assert "\n" not in str(caught.value)


def test_missing_sources_and_roots_are_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match=r"absent.json: no such folder or file"):
        read_pairs(tmp_path / "absent.json")
    with pytest.raises(HarnessError, match=r"image root .*absent: no such folder"):
        read_pairs(coco(tmp_path), tmp_path / "absent")


def test_a_folder_has_exactly_one_file_of_pairs(tmp_path: Path) -> None:
    put(tmp_path / "other.json", {"questions": []})
    with pytest.raises(HarnessError, match="no captions in it"):
        read_pairs(tmp_path)
    for name in ("a", "b"):
        put(tmp_path / f"{name}.json", [{"image": "a.jpg", "caption": "x"}])
    with pytest.raises(HarnessError, match=r"several files of captions \(a.json, b.json\)"):
        read_pairs(tmp_path)


def test_a_coco_caption_of_an_unlisted_image_is_named(tmp_path: Path) -> None:
    path = coco(tmp_path)
    content = json.loads(path.read_text())
    content["annotations"].append({"image_id": 70, "caption": "x"})
    with pytest.raises(HarnessError, match="image 70, which the list of images lacks"):
        read_pairs(put(path, content))


def test_every_caption_gets_its_epochs() -> None:
    pair = PairRef("a#0", b"", ("x", "y", "z"))
    shown = [caption_of(pair, 0, epoch) for epoch in range(60)]
    assert all(10 < shown.count(text) < 30 for text in pair.captions)
    assert shown == [caption_of(pair, 0, epoch) for epoch in range(60)]
    assert shown != [caption_of(pair, 1, epoch) for epoch in range(60)]


def test_draws_are_those_of_b2sum() -> None:
    """printf '0\\0001\\000a#0' | b2sum -l 64, and the same of a#0."""
    assert draw(0, 1, "a#0") == 0xFA45D60DD149D5B8
    assert sample_id("a#0") == 0xAB60D3F47D8EBE19 - 2**64


def test_equal_keys_of_two_sources_become_different() -> None:
    pairs = [PairRef(key, b"", ("x",)) for key in ("a#0", "a#1", "a#0", "b#0")]
    assert [pair.key for pair in unique_keys(pairs)] == ["a#0", "a#1", "a#2", "b#0"]


def test_another_image_of_the_same_name_is_another_image() -> None:
    pairs = [
        PairRef("a.jpg#0", Path("one/a.jpg"), ("x",)),
        PairRef("a.jpg#0", Path("two/a.jpg"), ("x",)),
        PairRef("a.jpg#1", Path("one/a.jpg"), ("x",)),
        PairRef("a.jpg#1", Path("two/a.jpg"), ("x",)),
        PairRef("a.jpg#0", Path("one/a.jpg"), ("x",)),
    ]
    assert [pair.key for pair in unique_keys(pairs)] == ["a.jpg#0", "a.jpg~1#0", "a.jpg#1", "a.jpg~1#1", "a.jpg#2"]


def test_many_keys_alike_take_no_time() -> None:
    twice = [PairRef(str(number), Path("a.jpg"), ("x",)) for number in range(20_000)] * 2
    assert len({pair.key for pair in unique_keys(twice)}) == 40_000
