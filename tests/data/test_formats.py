"""Facts about the loaders of captions and questions: they know files by content, and name what is wrong in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.data.formats import load_captions, load_questions
from harness.data.scenes import write_scenes
from harness.kit.errors import HarnessError


def put(folder: Path, name: str, content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


@pytest.fixture
def coco(tmp_path: Path) -> dict[str, Any]:
    picture(tmp_path / "train2017" / "000000000007.jpg")
    content = {
        "images": [{"id": 7, "file_name": "000000000007.jpg"}, {"id": 8, "file_name": "000000000008.jpg"}],
        "annotations": [{"image_id": 7, "id": 1, "caption": "A dog. "}, {"image_id": 7, "id": 2, "caption": "Dog"}],
    }
    put(tmp_path, "any_name.json", content)
    return content


@pytest.fixture
def vqa(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    for subset in ("train2014", "val2014"):
        picture(tmp_path / "images" / f"COCO_{subset}_000000000007.jpg")
    asked = {"data_subtype": "val2014", "questions": [{"question_id": 70, "image_id": 7, "question": "What?"}]}
    answered = {"annotations": [{"question_id": 70, "answers": [{"answer": "net"}] * 9 + [{"answer": "mesh"}]}]}
    put(tmp_path, "a.json", asked)
    put(tmp_path, "b.json", answered)
    return asked, answered


def test_captions_are_found_by_content(tmp_path: Path, coco: dict[str, Any]) -> None:
    found = load_captions(tmp_path)
    assert [image.name for image in found.images] == ["000000000007.jpg"]
    assert [(caption.id, caption.text, caption.patches) for caption in found.captions] == [
        (1, "A dog.", None),
        (2, "Dog", None),
    ]


def test_questions_carry_the_image_and_the_subset_chooses_the_file(tmp_path: Path, vqa: Any) -> None:
    found = load_questions(tmp_path)
    assert [image.name for image in found.images] == ["COCO_val2014_000000000007.jpg"]
    assert found.questions[0].answers == ("net",) * 9 + ("mesh",)


def test_scenes_read_back_with_their_patches(tmp_path: Path) -> None:
    write_scenes(tmp_path / "world", "val", 4, 0)
    captions, questions = load_captions(tmp_path / "world"), load_questions(tmp_path / "world")
    assert captions.images == questions.images
    assert (len(captions.captions), len(questions.questions)) == (20, 8)
    assert all(len(caption.patches or ()) == 12 for caption in captions.captions)
    assert all(question.patches and len(set(question.answers)) == 1 for question in questions.questions)
    limited = load_captions(tmp_path / "world", limit=2)
    assert (len(limited.images), len(limited.captions)) == (2, 10)
    assert load_questions(tmp_path / "world", limit=2).images == limited.images


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="absent: no such folder"):
        load_captions(tmp_path / "absent")


@pytest.mark.parametrize("load", [load_captions, load_questions])
def test_a_folder_without_the_files_is_named(tmp_path: Path, load: Any) -> None:
    put(tmp_path, "other.json", [1, 2])
    with pytest.raises(
        HarnessError,
        match=r"no (captions|questions with answers) in it; expected one of .*(COCO|VQA v2)",
    ):
        load(tmp_path)


def test_malformed_json_is_named(tmp_path: Path) -> None:
    put(tmp_path, "broken.json", '{"annotations": [')
    with pytest.raises(HarnessError, match=r"broken.json: not valid JSON"):
        load_captions(tmp_path)


def test_a_caption_of_a_missing_picture_is_named(tmp_path: Path, coco: dict[str, Any]) -> None:
    coco["annotations"].append({"image_id": 8, "id": 3, "caption": "A cat"})
    put(tmp_path, "any_name.json", coco)
    with pytest.raises(HarnessError, match=r"names the image 000000000008.jpg"):
        load_captions(tmp_path)


def test_a_caption_of_an_unlisted_image_is_named(tmp_path: Path, coco: dict[str, Any]) -> None:
    coco["annotations"].append({"image_id": 9, "id": 3, "caption": "A cat"})
    put(tmp_path, "any_name.json", coco)
    with pytest.raises(HarnessError, match="image 9, which the list of images lacks"):
        load_captions(tmp_path)


def test_an_entry_without_its_fields_is_named(tmp_path: Path, coco: dict[str, Any]) -> None:
    coco["annotations"].append({"caption": "A cat"})
    put(tmp_path, "any_name.json", coco)
    with pytest.raises(HarnessError, match="entry 2 lacks image_id"):
        load_captions(tmp_path)


def test_a_question_about_a_missing_picture_is_named(tmp_path: Path, vqa: Any) -> None:
    vqa[0]["questions"][0]["image_id"] = 9
    put(tmp_path, "a.json", vqa[0])
    with pytest.raises(HarnessError, match=r"names image 9, but no COCO_SUBSET_000000000009.jpg"):
        load_questions(tmp_path)


def test_a_question_without_answers_is_named(tmp_path: Path, vqa: Any) -> None:
    vqa[0]["questions"].append({"question_id": 71, "image_id": 7, "question": "Who?"})
    put(tmp_path, "a.json", vqa[0])
    with pytest.raises(HarnessError, match="no annotation for question 71"):
        load_questions(tmp_path)


def test_answers_that_nobody_asked_for_are_passed_over(tmp_path: Path, vqa: Any) -> None:
    before = load_questions(tmp_path)
    row = {"question_id": 71, "answers": [{"answer": "a"}] * 10}
    put(tmp_path, "b.json", {"annotations": [*vqa[1]["annotations"], row]})
    assert load_questions(tmp_path) == before
    put(tmp_path, "b.json", {"annotations": [*vqa[1]["annotations"], row, row]})
    with pytest.raises(HarnessError, match="annotations: the id 71 stands there twice"):
        load_questions(tmp_path)


def test_images_without_captions_are_passed_over(tmp_path: Path, coco: dict[str, Any]) -> None:
    assert [image["id"] for image in coco["images"]] == [7, 8]
    assert [image.name for image in load_captions(tmp_path).images] == ["000000000007.jpg"]


def test_two_splits_in_a_folder_are_refused(tmp_path: Path, coco: dict[str, Any]) -> None:
    put(tmp_path, "another.json", coco)
    with pytest.raises(HarnessError, match=r"several files of captions \(another.json, any_name.json\)"):
        load_captions(tmp_path)


def test_of_a_set_with_several_splits_evaluations_read_the_test_split(tmp_path: Path, coco: dict[str, Any]) -> None:
    (tmp_path / "any_name.json").rename(tmp_path / "captions_val2017.json")
    other = {**coco, "annotations": [{"image_id": 7, "id": 5, "caption": "One cat"}]}
    put(tmp_path, "captions_train2017.json", other)
    assert [caption.id for caption in load_captions(tmp_path).captions] == [1, 2]
    assert [caption.id for caption in load_captions(tmp_path, split="train").captions] == [5]
    assert [caption.id for caption in load_captions(tmp_path / "captions_train2017.json").captions] == [5]
    with pytest.raises(HarnessError, match="no split 'test'; there is train, val"):
        load_captions(tmp_path, split="test")


def test_a_file_in_annotations_finds_its_images_beside_that_folder(tmp_path: Path, coco: dict[str, Any]) -> None:
    (tmp_path / "annotations").mkdir()
    path = (tmp_path / "any_name.json").rename(tmp_path / "annotations" / "some.json")
    assert len(load_captions(path).captions) == 2


def karpathy(folder: Path, *, splits: bool = True) -> None:
    rows = []
    for number, split in enumerate(["train", "restval", "val", "test", "test"], 1):
        picture(folder / "val2014" / f"{number}.jpg")
        sentences = [
            {"raw": f"A {number}.", "sentid": 10 * number},
            {"raw": f"{number} again", "sentid": 10 * number + 1},
        ]
        row = {"filepath": "val2014", "filename": f"{number}.jpg", "sentences": sentences}
        rows.append(row | ({"split": split} if splits else {}))
    put(folder, "renamed.json", {"dataset": "coco", "images": rows})


@pytest.mark.parametrize(
    ("split", "names"),
    [(None, "45"), ("test", "45"), ("train", "1"), ("train+restval", "12"), ("val", "3")],
)
def test_karpathys_file_holds_its_splits(tmp_path: Path, split: str | None, names: str) -> None:
    karpathy(tmp_path)
    found = load_captions(tmp_path, split=split)
    assert "".join(image.stem for image in found.images) == names
    assert [caption.text for caption in found.captions[:2]] == [f"A {names[0]}.", f"{names[0]} again"]
    assert found.captions[0].id == 10 * int(names[0])


def test_karpathys_file_without_splits_is_read_whole(tmp_path: Path) -> None:
    karpathy(tmp_path, splits=False)
    assert len(load_captions(tmp_path).images) == 5
    with pytest.raises(HarnessError, match="no split 'val'; there is none that says its split"):
        load_captions(tmp_path, split="val")


@pytest.fixture
def entities(tmp_path: Path) -> Path:
    for name in ("22", "11"):
        picture(tmp_path / "flickr30k-images" / f"{name}.jpg")
        text = f"[/EN#1/people A girl] with [/EN#0/notvisual it] in {name} .\n[/EN#2/scene/other The sea] .\n"
        put(tmp_path / "Sentences", f"{name}.txt", text)
    return tmp_path


def test_marks_of_entities_are_stripped(entities: Path) -> None:
    found = load_captions(entities)
    assert [image.stem for image in found.images] == ["11", "22"]
    assert [caption.text for caption in found.captions[2:]] == ["A girl with it in 22 .", "The sea ."]


def test_a_list_of_ids_beside_the_sentences_is_their_split(entities: Path) -> None:
    put(entities, "test.txt", "22\n11\n")
    put(entities, "train.txt", "11\n")
    put(entities, "LICENSE.txt", "Free to use.\n")
    assert [image.stem for image in load_captions(entities).images] == ["22", "11"]
    assert [image.stem for image in load_captions(entities, split="train").images] == ["11"]
    put(entities, "test.txt", "22\n33\n")
    with pytest.raises(HarnessError, match=r"has no 33.txt, which the list of the split names"):
        load_captions(entities)


def test_lists_of_captions_by_albef_and_blip(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "images" / "val2014" / f"{name}.jpg")
    picture(tmp_path / "thumbnails" / "a.jpg")
    put(tmp_path, "x_val.json", [{"image": "val2014/b.jpg", "caption": ["One", "Two"]}])
    train = [("val2014/a.jpg", "Three"), ("/home/else/val2014/b.jpg", "Four"), ("val2014/a.jpg", "Five")]
    put(tmp_path, "x_train.json", [{"image": image, "caption": text, "image_id": "1"} for image, text in train])
    put(tmp_path, "x_val_gt.json", {"annotations": [{"image_id": 1, "caption": "One", "id": 1}], "images": [{"id": 1}]})
    assert [caption.text for caption in load_captions(tmp_path).captions] == ["One", "Two"]
    found = load_captions(tmp_path, split="train")
    assert [image.relative_to(tmp_path).as_posix() for image in found.images] == [
        "images/val2014/a.jpg",
        "images/val2014/b.jpg",
    ]
    assert [(caption.image.stem, caption.text) for caption in found.captions] == [
        ("a", "Three"),
        ("a", "Five"),
        ("b", "Four"),
    ]


def test_an_image_that_lies_in_two_places_is_ambiguous(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        picture(tmp_path / folder / "a.jpg")
    put(tmp_path, "test.json", [{"image": "a.jpg", "caption": ["One"]}])
    with pytest.raises(HarnessError, match=r"the image a.jpg, of which there are several \(one/a.jpg, two/a.jpg\)"):
        load_captions(tmp_path)


def test_images_are_found_through_links(tmp_path: Path, coco: dict[str, Any]) -> None:
    (tmp_path / "train2017").rename(tmp_path / ".elsewhere")
    (tmp_path / "linked").symlink_to(tmp_path / ".elsewhere", target_is_directory=True)
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert load_captions(tmp_path).images == (tmp_path / "linked" / "000000000007.jpg",)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"image_id": 7, "id": 3, "caption": "  "}, "caption 3 is empty or no text"),
        ({"image_id": 7, "id": 3, "caption": None}, "caption 3 is empty or no text"),
        ({"image_id": 7, "id": 2, "caption": "Cat"}, "captions: the id 2 stands there twice"),
    ],
)
def test_captions_that_cannot_be_used_are_named(
    tmp_path: Path, coco: dict[str, Any], row: dict[str, Any], reason: str
) -> None:
    coco["annotations"].append(row)
    put(tmp_path, "any_name.json", coco)
    with pytest.raises(HarnessError, match=reason):
        load_captions(tmp_path)


def test_an_id_that_is_no_id_is_named(tmp_path: Path, coco: dict[str, Any]) -> None:
    coco["annotations"][1]["image_id"] = [7]
    put(tmp_path, "any_name.json", coco)
    with pytest.raises(HarnessError, match=r"entry 1 has the image_id \[7\]; expected a number or text"):
        load_captions(tmp_path)


def test_two_images_of_one_id_are_named(tmp_path: Path, coco: dict[str, Any]) -> None:
    coco["images"][1]["id"] = 7
    put(tmp_path, "any_name.json", coco)
    with pytest.raises(HarnessError, match="images: the id 7 stands there twice"):
        load_captions(tmp_path)


def test_annotations_in_another_encoding_are_named(tmp_path: Path, coco: dict[str, Any]) -> None:
    (tmp_path / "any_name.json").write_bytes('{"caption": "Café"}'.encode("latin-1"))
    with pytest.raises(HarnessError, match=r"any_name.json: not UTF-8 \(byte 16: .*\); convert it to UTF-8"):
        load_captions(tmp_path)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path, coco: dict[str, Any]) -> None:
    (tmp_path / "any_name.json").write_text(json.dumps(coco), encoding="utf-8-sig")
    assert len(load_captions(tmp_path).captions) == 2


def test_questions_of_a_split_go_with_the_answers_of_it(tmp_path: Path, vqa: Any) -> None:
    put(tmp_path, "b.json", {**vqa[1], "data_subtype": "val2014"})
    other = {"data_subtype": "train2014", "questions": [{"question_id": 71, "image_id": 7, "question": "Who?"}]}
    put(tmp_path, "c.json", other)
    rows = [{"question_id": 71, "answers": [{"answer": "he"}] * 10}]
    put(tmp_path, "d.json", {"data_subtype": "train2014", "annotations": rows})
    unanswered = {"data_subtype": "test2015", "questions": [{"question_id": 72, "image_id": 7, "question": "Why?"}]}
    put(tmp_path, "e.json", unanswered)
    assert [question.id for question in load_questions(tmp_path).questions] == [70]
    assert load_questions(tmp_path, split="train").images == (tmp_path / "images" / "COCO_train2014_000000000007.jpg",)


@pytest.mark.parametrize(
    ("question", "answers", "reason"),
    [
        ({"question_id": 70, "image_id": 7, "question": "What?"}, None, "questions: the id 70 stands there twice"),
        ({"question_id": 71, "image_id": 7, "question": ""}, [{"answer": "a"}], "question 71 is empty"),
        ({"question_id": 71, "image_id": 7, "question": "What?"}, [], "question 71 has no answers"),
    ],
)
def test_questions_that_cannot_be_used_are_named(
    tmp_path: Path, vqa: Any, question: dict[str, Any], answers: Any, reason: str
) -> None:
    vqa[0]["questions"].append(question)
    if answers is not None:
        vqa[1]["annotations"].append({"question_id": 71, "answers": answers})
    put(tmp_path, "a.json", vqa[0])
    put(tmp_path, "b.json", vqa[1])
    with pytest.raises(HarnessError, match=reason):
        load_questions(tmp_path)


def test_questions_without_any_annotations_are_named(tmp_path: Path, vqa: Any) -> None:
    (tmp_path / "b.json").unlink()
    with pytest.raises(HarnessError, match=r"no VQA v2 annotations for a.json; put them beside it"):
        load_questions(tmp_path)


def test_albefs_questions_with_their_list_of_answers(tmp_path: Path) -> None:
    picture(tmp_path / "coco" / "val2014" / "a.jpg")
    picture(tmp_path / "vg" / "2.jpg")
    rows = [
        {
            "question_id": 1,
            "question": "What?",
            "answer": ["cat"] * 9 + ["dog"],
            "image": "val2014/a.jpg",
            "dataset": "vqa",
        },
        {"question_id": 2, "question": "Who?", "answer": "a man", "image": "vg/2.jpg", "dataset": "vg"},
    ]
    put(tmp_path, "some.json", rows)
    put(tmp_path, "others.json", [{"question_id": 3, "question": "Why?", "image": "val2014/a.jpg"}])
    put(tmp_path, "list.json", ["cat", "dog", "a man"])
    found = load_questions(tmp_path)
    assert [(one.image.name, len(one.answers)) for one in found.questions] == [("a.jpg", 10), ("2.jpg", 1)]
    assert found.questions[1].answers == ("a man",)
    assert found.answers == ("cat", "dog", "a man")
    assert load_questions(tmp_path, limit=1).images == found.images[:1]
