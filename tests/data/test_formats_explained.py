"""What is written otherwise than published is read where it is plain what it means, or said where and how it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.check.data import lines
from harness.data.formats import load_captions, load_questions
from harness.kit.errors import HarnessError
from tests.data.test_formats import karpathy, picture, put
from tests.data.test_shards import write_tar


def test_an_entry_of_an_inner_list_is_named_by_what_it_stands_in(tmp_path: Path) -> None:
    karpathy(tmp_path)
    path = tmp_path / "renamed.json"
    content = json.loads(path.read_text())
    content["images"][3]["sentences"][1] = {"tokens": []}
    put(tmp_path, "renamed.json", content)
    with pytest.raises(HarnessError, match=r"renamed\.json: image 3, sentence 1 lacks raw"):
        load_captions(tmp_path)
    content["images"][3]["sentences"] = "A sentence"
    put(tmp_path, "renamed.json", content)
    with pytest.raises(HarnessError, match=r"renamed\.json: image 3, sentences: expected a list of entries with raw"):
        load_captions(tmp_path)


def test_an_answer_is_named_with_its_question(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "COCO_val2014_000000000007.jpg")
    put(tmp_path, "a.json", {"questions": [{"question_id": 70, "image_id": 7, "question": "What?"}]})
    put(tmp_path, "b.json", {"annotations": [{"question_id": 70, "answers": [{"answer": "net"}, {"anwser": "net"}]}]})
    with pytest.raises(HarnessError, match=r"b\.json: question 70, answer 1 lacks answer"):
        load_questions(tmp_path)


def test_an_image_id_may_be_the_name_of_its_file(tmp_path: Path) -> None:
    for name in ("a dog.jpg", "cat.jpg"):
        picture(tmp_path / "images" / name)
    rows = [{"image_id": name, "caption": name, "id": number} for number, name in enumerate(("a dog.jpg", "cat"))]
    put(tmp_path, "coco_val_gt.json", {"annotations": rows, "images": [{"id": row["image_id"]} for row in rows]})
    assert [image.name for image in load_captions(tmp_path).images] == ["a dog.jpg", "cat.jpg"]
    put(tmp_path, "coco_val_gt.json", {"annotations": [rows[0] | {"image_id": "bird.jpg"}], "images": []})
    with pytest.raises(HarnessError, match=r"names the image bird\.jpg, which is not under"):
        load_captions(tmp_path)


def test_lines_of_flickr30k_may_name_files_with_spaces_and_must_be_utf8(tmp_path: Path) -> None:
    picture(tmp_path / "my photo 1.jpg")
    text = "my photo 1.jpg#0\tA dog.\nmy photo 1.jpg#1\tOne dog.\n"
    (tmp_path / "results.token").write_text(text)
    assert [caption.text for caption in load_captions(tmp_path).captions] == ["A dog.", "One dog."]
    (tmp_path / "results.token").write_text(text, encoding="utf-16")
    with pytest.raises(HarnessError, match=r"results\.token: not UTF-8 .*; convert it to UTF-8"):
        load_captions(tmp_path)


@pytest.mark.parametrize("count", [4, 40])
def test_pairs_packed_apart_are_said_to_be_and_no_command_is_printed(tmp_path: Path, count: int) -> None:
    picture(tmp_path / "a.jpg")
    inside = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").unlink()
    kinds = {"jpg": inside, "txt": b"A dog"}
    members = {f"{number:02}.{kind}": content for number in range(count) for kind, content in kinds.items()}
    apart = {name: members[name] for name in sorted(members, key=lambda name: name.rpartition(".")[2])}
    write_tar(tmp_path / "0.tar", apart)
    found = lines(tmp_path)
    assert any("unusable: pairs packed apart: " in line and "tar --sort=name" in line for line, _ in found), found
    assert not any("python -m harness" in line for line, _ in found)
    write_tar(tmp_path / "0.tar", members)
    assert any("python -m harness pretrain" in line for line, _ in lines(tmp_path))
