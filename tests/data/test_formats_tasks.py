"""Facts about the loaders of entailment, of statements about pairs and of classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.data.formats import load_classes, load_entailment, load_nlvr2
from harness.kit.errors import HarnessError


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def lines(path: Path, rows: list[dict[str, Any]]) -> None:
    put(path, "\n".join(json.dumps(row) for row in rows) + "\n")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


def snli(label: str, image: str = "11", **more: Any) -> dict[str, Any]:
    return {"Flickr30K_ID": image, "sentence2": f"It is {label}.", "gold_label": label, **more}


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    for name in ("11", "22"):
        picture(tmp_path / "images" / f"{name}.jpg")
    return tmp_path


def test_snli_ve_drops_what_annotators_disagreed_on(flickr: Path) -> None:
    rows = [snli("entailment", "22", pairID="a"), snli("-"), snli("contradiction"), snli("neutral")]
    lines(flickr / "pairs.jsonl", rows)
    found = load_entailment(flickr)
    assert [(one.id, one.image.stem, one.label) for one in found.hypotheses] == [
        ("a", "22", 2),
        (2, "11", 0),
        (3, "11", 1),
    ]
    assert [image.stem for image in found.images] == ["22", "11"]
    assert [one.text for one in load_entailment(flickr, limit=1).hypotheses] == ["It is entailment."]


def test_albefs_images_have_no_ending(flickr: Path) -> None:
    put(flickr / "ve_test.json", [{"image": "11", "sentence": "A dog", "label": "neutral"}])
    found = load_entailment(flickr)
    assert (found.hypotheses[0].image.name, found.hypotheses[0].label) == ("11.jpg", 1)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (snli("maybe"), "has the label 'maybe'; expected contradiction, neutral, entailment or -"),
        (snli("neutral", "33"), r"names the image 33.jpg, which is not under"),
        (snli("neutral") | {"sentence2": ""}, "sentence 1 is empty"),
        (snli("neutral", pairID="a"), "sentences: the id a stands there twice"),
    ],
)
def test_sentences_that_cannot_be_used_are_named(flickr: Path, row: dict[str, Any], reason: str) -> None:
    lines(flickr / "pairs.jsonl", [snli("neutral", pairID="a"), row])
    with pytest.raises(HarnessError, match=reason):
        load_entailment(flickr)


def test_a_broken_line_is_named(flickr: Path) -> None:
    put(flickr / "pairs.jsonl", json.dumps(snli("neutral")) + "\n\n{nothing\n")
    with pytest.raises(HarnessError, match=r"pairs.jsonl: line 3: not valid JSON"):
        load_entailment(flickr)


def statement(identifier: str, label: Any = "True") -> dict[str, Any]:
    return {"identifier": identifier, "sentence": f"Sentence {identifier[-1]}.", "label": label}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for pair in ("dev-8-0", "dev-8-1", "test1-8-0"):
        for side in (0, 1):
            picture(tmp_path / "images" / f"{pair}-img{side}.png")
    return tmp_path


def test_nlvr2_finds_both_images_and_the_group_of_a_sentence(pairs: Path) -> None:
    lines(pairs / "tiny.json", [statement("dev-8-1-0"), statement("dev-8-0-0", "False"), statement("dev-8-0-1")])
    found = load_nlvr2(pairs)
    assert [image.stem for image in found.images] == ["dev-8-1-img0", "dev-8-1-img1", "dev-8-0-img0", "dev-8-0-img1"]
    assert [(one.id, one.label, one.group) for one in found.statements] == [
        ("dev-8-1-0", True, "dev-8-0"),
        ("dev-8-0-0", False, "dev-8-0"),
        ("dev-8-0-1", True, "dev-8-1"),
    ]
    assert found.statements[1].images == found.images[2:]
    assert [one.id for one in load_nlvr2(pairs, limit=3).statements] == ["dev-8-1-0"]
    with pytest.raises(HarnessError, match="images that are there among the first 1"):
        load_nlvr2(pairs, limit=1)


def test_a_file_of_one_line_is_read(pairs: Path) -> None:
    lines(pairs / "one.json", [statement("dev-8-0-0")])
    assert len(load_nlvr2(pairs).statements) == 1


def test_nlvr2s_identifiers_tell_the_split(pairs: Path) -> None:
    lines(pairs / "all.json", [statement("dev-8-1-0"), statement("test1-8-0-0")])
    assert [one.id for one in load_nlvr2(pairs).statements] == ["test1-8-0-0"]
    assert [one.id for one in load_nlvr2(pairs, split="dev").statements] == ["dev-8-1-0"]


def test_albefs_list_of_pairs_has_groups_too(pairs: Path) -> None:
    names = [[f"dev/{pair}-img{side}.png" for side in (0, 1)] for pair in ("dev-8-0", "dev-8-1")]
    put(pairs / "nlvr_dev.json", [{"images": both, "sentence": "Same.", "label": "False"} for both in names])
    found = load_nlvr2(pairs)
    assert [one.id for one in found.statements] == [0, 1]
    assert found.statements[0].group == found.statements[1].group
    assert [path.stem for path in found.statements[1].images] == ["dev-8-1-img0", "dev-8-1-img1"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (statement("dev-9-0-0"), "names the image dev-9-0-img0, which is not under"),
        (statement("dev-8-1-0", "perhaps"), "statement dev-8-1-0 has the label 'perhaps'; expected True or False"),
        (statement("dev-8-0-0"), "statements: the id dev-8-0-0 stands there twice"),
        (statement("dev-8-0"), "the identifier 'dev-8-0' is not split-set-pair-sentence"),
        (statement("dev-8-1-0") | {"sentence": " "}, "statement dev-8-1-0 is empty"),
    ],
)
def test_statements_that_cannot_be_used_are_named(pairs: Path, row: dict[str, Any], reason: str) -> None:
    lines(pairs / "tiny.json", [statement("dev-8-0-0"), row])
    with pytest.raises(HarnessError, match=reason):
        load_nlvr2(pairs)


def test_a_pair_of_which_one_image_is_missing_is_named(pairs: Path) -> None:
    lines(pairs / "tiny.json", [statement("dev-8-0-0")])
    (pairs / "images" / "dev-8-0-img1.png").unlink()
    with pytest.raises(HarnessError, match="names the image dev-8-0-img1"):
        load_nlvr2(pairs)


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    for name in ("dog/1", "dog/2", "cat_fish/1", "ape/1", "ape/2", "ape/3"):
        picture(tmp_path / f"{name}.png")
    return tmp_path


def test_classes_take_turns_so_that_a_limit_takes_from_all(animals: Path) -> None:
    found = load_classes(animals)
    assert found.classes == ("ape", "cat fish", "dog")
    assert [(one.id, one.label) for one in found.classified[:4]] == [
        ("ape/1.png", 0),
        ("cat_fish/1.png", 1),
        ("dog/1.png", 2),
        ("ape/2.png", 0),
    ]
    assert found.images == tuple(one.image for one in found.classified)
    assert [one.label for one in load_classes(animals, limit=3).classified] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("words.txt", "dog hound, Canis\nape monkey\ncat_fish catfish\nowl owl\n"),
        ("names.txt", "monkey\ncatfish\nhound\n"),
        ("names.json", ["monkey", "catfish", "hound"]),
        ("map.json", {"ape": "monkey", "dog": "hound", "cat_fish": "catfish, Siluriformes"}),
        ("index.json", {"0": ["ape", "monkey"], "1": ["cat_fish", "catfish"], "2": ["dog", "hound"]}),
    ],
)
def test_names_of_classes_come_in_the_usual_forms(animals: Path, name: str, content: Any) -> None:
    put(animals / name, content)
    put(animals / "templates.txt", "a photo of a {}.\nart of the {}.\n")
    put(animals / "unrelated.txt", "Thanks to all.\n")
    found = load_classes(animals)
    assert found.classes == ("monkey", "catfish", "hound")
    assert found.templates == ("a photo of a {}.", "art of the {}.")


def test_folders_that_are_numbers_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        picture(tmp_path / str(number) / "a.jpg")
    put(tmp_path / "names.json", ["zero", "two", "ten"])
    found = load_classes(tmp_path)
    assert [(found.classes[one.label], one.image.parent.name) for one in found.classified] == [
        ("zero", "0"),
        ("two", "2"),
        ("ten", "10"),
    ]


def test_classes_within_splits(tmp_path: Path) -> None:
    for name in ("train/ape/1", "train/dog/1", "val/ape/9", "val/dog/9"):
        picture(tmp_path / f"{name}.png")
    assert [one.id for one in load_classes(tmp_path).classified] == ["ape/9.png", "dog/9.png"]
    assert [one.id for one in load_classes(tmp_path, split="train").classified] == ["ape/1.png", "dog/1.png"]


def test_a_class_without_images_is_named(animals: Path) -> None:
    (animals / "owl").mkdir()
    with pytest.raises(HarnessError, match=r"owl: a class without images; fill the folder or delete it"):
        load_classes(animals)


def test_a_folder_of_images_alone_is_no_folder_of_classes(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "1.png")
    with pytest.raises(HarnessError, match="no classes in it; expected one of a folder of images per class"):
        load_classes(tmp_path)
