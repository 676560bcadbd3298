"""Facts about the loaders: they know files by their content and name what is wrong in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.data.formats import load_captions, load_questions
from harness.data.scenes import write_scenes
from harness.errors import HarnessError


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
    with pytest.raises(HarnessError, match=r"no (COCO captions|VQA v2 questions) JSON in it"):
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
    with pytest.raises(HarnessError, match="image 9, which the file lacks"):
        load_captions(tmp_path)


def test_an_entry_without_its_fields_is_named(tmp_path: Path, coco: dict[str, Any]) -> None:
    coco["annotations"].append({"caption": "A cat"})
    put(tmp_path, "any_name.json", coco)
    with pytest.raises(HarnessError, match="entry 2 lacks image_id"):
        load_captions(tmp_path)


def test_a_question_about_a_missing_picture_is_named(tmp_path: Path, vqa: Any) -> None:
    vqa[0]["questions"].append({"question_id": 71, "image_id": 9, "question": "Who?"})
    put(tmp_path, "a.json", vqa[0])
    with pytest.raises(HarnessError, match="names image 9"):
        load_questions(tmp_path)


def test_a_question_without_answers_is_named(tmp_path: Path, vqa: Any) -> None:
    vqa[0]["questions"].append({"question_id": 71, "image_id": 7, "question": "Who?"})
    put(tmp_path, "a.json", vqa[0])
    with pytest.raises(HarnessError, match="no annotation for question 71"):
        load_questions(tmp_path)


def test_two_splits_in_a_folder_are_refused(tmp_path: Path, coco: dict[str, Any]) -> None:
    put(tmp_path, "another.json", coco)
    with pytest.raises(HarnessError, match=r"several COCO captions files \(another.json, any_name.json\)"):
        load_captions(tmp_path)
