"""Small inputs as people had them, on which earlier versions went wrong: what each gives now, and why that is right."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.check.data import lines
from harness.data.annotations.source import load
from harness.data.augment import Augmentation
from harness.data.formats import load_captions, load_nlvr2, load_questions
from harness.data.pair_loader import PairLoader
from harness.data.pairs import read_pairs
from harness.data.shards import count_samples, read_shard
from harness.kit.errors import HarnessError


def save(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(seed))


def jpeg(seed: int, size: int = 24) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def check(where: Path, full: bool = False) -> tuple[str, bool]:
    found = lines(where, full)
    return "\n".join(line for line, _ in found), all(good for _, good in found)


def tar(path: Path, names: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for number, name in enumerate(names):
            for ending, content in ((".jpg", jpeg(number)), (".txt", f"text {number}".encode())):
                member = tarfile.TarInfo(name + ending)
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize("dotted", [range(8), range(1, 8, 2)])
def test_samples_with_dots_in_their_names_are_samples(tmp_path: Path, dotted: Iterable[int]) -> None:
    shard = tar(tmp_path / "0.tar", [f"clip_{one:03d}" + (".v2.0" if one in dotted else "") for one in range(8)])
    refs = list(read_shard(shard, "0.tar", lambda path, reason: pytest.fail(reason)))
    assert len(refs) == 8
    assert all(ref.image and ref.captions for ref in refs)
    assert count_samples([shard]) == {shard: 8}
    text, good = check(tmp_path)
    assert good
    assert "1 shard, 8 pairs, 8 captions" in text


def test_members_that_make_no_sample_for_their_dots_are_counted(tmp_path: Path) -> None:
    shard = tar(tmp_path / "0.tar", ["a", "b"])
    with tarfile.open(shard, "a") as file:
        member = tarfile.TarInfo("b.seg.png")
        member.size = 1
        file.addfile(member, io.BytesIO(b"x"))
    text, _ = check(tmp_path)
    assert "2 pairs, 2 captions" in text
    assert f"odd: members of no sample, for the dots in their names: 1 (first: {shard}: b.seg.png)" in text


def vqa(folder: Path, answers: list[Any]) -> None:
    save(folder / "val2014" / "COCO_val2014_000000000100.jpg", 0)
    put(folder / "q.json", {"questions": [{"image_id": 100, "question_id": 1001, "question": "how many?"}]})
    rows = [{"question_id": 1001, "answers": [{"answer": answer} for answer in answers]}]
    put(folder / "a.json", {"annotations": rows})


@pytest.mark.parametrize("bad", [None, 2, True, 2.5, ["two"], "\ud83d"])
def test_what_is_no_text_is_no_answer(tmp_path: Path, bad: Any) -> None:
    vqa(tmp_path, ["2"] * 7 + [bad] * 3)
    with pytest.raises(HarnessError, match=r"question 1001 has the answer .*, which is no text"):
        load_questions(tmp_path)
    text, good = check(tmp_path)
    assert not good
    assert "questions with an answer that is no text: 1" in text


@pytest.mark.parametrize("answer", [None, [None, "cat"], 2, ["2", 2], [True]])
def test_nor_is_it_in_albefs_list(tmp_path: Path, answer: Any) -> None:
    save(tmp_path / "a.jpg", 0)
    put(tmp_path / "v.json", [{"question_id": 1, "question": "what?", "image": "a.jpg", "answer": answer}])
    with pytest.raises(HarnessError, match=r"question 1 has the answer .*, which is no text"):
        load_questions(tmp_path)


TOKEN = "".join(f"{one}.jpg#{n}\ta person {n} , {one} .\n" for one in (1, 2) for n in range(5))
BARS = "image_name| comment_number| comment\n" + "".join(
    f"{one}.jpg| {n}{'| ' if (one, n) != (2, 4) else '   '}a person {n} , {one} .\n" for one in (1, 2) for n in range(5)
)
COMMAS = "image,caption\n" + "".join(f'{one}.jpg,"a person {n} , {one} ."\n' for one in (1, 2) for n in range(5))


@pytest.mark.parametrize(
    ("name", "content"), [("results_20130124.token", TOKEN), ("results.csv", BARS), ("flickr30k_test.txt", COMMAS)]
)
def test_flickr30k_as_published_is_read_and_trained_on(tmp_path: Path, name: str, content: str) -> None:
    for one in (1, 2):
        save(tmp_path / "flickr30k-images" / f"{one}.jpg", one)
    path = put(tmp_path / name, content)
    found = load_captions(tmp_path)
    assert [image.name for image in found.images] == ["1.jpg", "2.jpg"]
    assert [caption.text for caption in found.captions][:2] == ["a person 0 , 1 .", "a person 1 , 1 ."]
    assert (len(found.captions), found.captions[-1].id) == (10, "2.jpg#4")
    pairs = read_pairs(path)
    assert [(ref.key, len(ref.captions)) for ref in pairs.refs] == [("1.jpg#0", 5), ("2.jpg#0", 5)]
    text, good = check(tmp_path)
    assert good
    assert ("lines without their second bar: 1" in text) is (content == BARS)
    assert f"pretrain --model albef-tiny --data {path} --batch-size 2" in text


def test_a_line_that_is_no_caption_is_reported(tmp_path: Path) -> None:
    save(tmp_path / "1.jpg", 1)
    put(tmp_path / "r.token", "1.jpg#0\tA dog.\nwhat is this\n")
    with pytest.raises(HarnessError, match="line 'what is this' is no image with its caption"):
        load_captions(tmp_path)


def coco(folder: Path, rows: list[dict[str, Any]], name: str = "{}.jpg") -> Path:
    for one in (1, 2, 3):
        save(folder / "val2014" / f"{one}.jpg", one)
    images = [{"id": one, "file_name": name.format(one)} for one in (1, 2, 3)]
    return put(folder / "annotations" / "captions_val2014.json", {"images": images, "annotations": rows})


def test_ids_of_two_types_are_named(tmp_path: Path) -> None:
    coco(tmp_path, [{"id": 1, "image_id": "1", "caption": "A dog"}])
    with pytest.raises(HarnessError, match="image '1', a text; the list of images has it as a number"):
        load_captions(tmp_path)
    vqa(tmp_path / "v", ["a"] * 10)
    put(tmp_path / "v" / "q.json", {"questions": [{"image_id": 100, "question_id": "1001", "question": "how?"}]})
    with pytest.raises(HarnessError, match=r"question '1001', a text; a.json has it as a number"):
        load_questions(tmp_path / "v")


def test_training_finds_images_as_evaluation_does(tmp_path: Path) -> None:
    rows = [{"id": one, "image_id": one, "caption": f"A {one}"} for one in (1, 2, 3)]
    path = coco(tmp_path, rows, "images/val/{}.jpg")
    assert [ref.image for ref in read_pairs(path).refs] == list(load_captions(path).images)
    text, good = check(tmp_path)
    assert good
    assert f"--data {path} --batch-size 3" in text


def test_lists_with_paths_of_another_machine(tmp_path: Path) -> None:
    rows = [{"image": f"/export/share/vg/image/{one}.jpg", "caption": f"A {one}", "image_id": one} for one in range(4)]
    path = put(tmp_path / "vg_caption.json", rows)
    with pytest.raises(HarnessError, match="its paths are absolute, so images are looked for by name below"):
        read_pairs(path)
    for one in range(4):
        save(tmp_path / "image" / f"{one}.jpg", one)
    assert [ref.image for ref in read_pairs(path).refs] == list(load_captions(path).images)
    assert [ref.image for ref in read_pairs(path, tmp_path / "image").refs] == list(load_captions(path).images)


def test_missing_images_are_known_before_the_first_step(tmp_path: Path) -> None:
    for one in range(7):
        save(tmp_path / f"{one}.jpg", one)
    path = put(tmp_path / "p.json", [{"image": f"{one}.jpg", "caption": f"A {one}"} for one in range(10)])

    def loader(share: float) -> PairLoader:
        augmentation = Augmentation(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        return PairLoader([str(path)], None, augmentation, 5, max_bad_share=share, warn=lambda line: None)

    with pytest.raises(HarnessError, match=r"3 of 10 pairs .* give --max-bad-share 0.3$"):
        loader(0.01)
    assert sum(batch.bad for batch in loader(0.3).epoch(0)) == 3
    text, good = check(tmp_path)
    assert good
    assert "--batch-size 10 --max-bad-share 0.3" in text
    assert "harness run" not in text


def test_a_cut_download_is_found(tmp_path: Path) -> None:
    rows = [{"id": one, "image_id": one, "caption": f"A {one}"} for one in (1, 2, 3)]
    coco(tmp_path, rows)
    whole = jpeg(9, 200)
    (tmp_path / "val2014" / "3.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    text, good = check(tmp_path)
    assert not good
    assert "every image decoded" in text
    assert "3.jpg: cannot be read (image file is truncated" in text


def test_of_many_images_a_sample_is_decoded_and_with_full_all(tmp_path: Path) -> None:
    for one in range(40):
        save(tmp_path / f"{one:02d}.jpg", one)
    whole = jpeg(99, 200)
    (tmp_path / "04.jpg").write_bytes(whole[: len(whole) // 2])
    put(tmp_path / "t.json", [{"image": f"{one:02d}.jpg", "caption": ["A", "B"]} for one in range(40)])
    text, good = check(tmp_path)
    assert good
    assert "32 of 40 images decoded, the headers of the others read; --full decodes all" in text
    text, good = check(tmp_path, full=True)
    assert not good
    assert "every image decoded" in text
    assert "unreadable images: 1" in text


@pytest.fixture
def nlvr2(tmp_path: Path) -> Path:
    for split, sets in (("test1", (0, 1, 2)), ("test2", (0, 1))):
        rows = [
            {"identifier": f"{split}-{one}-0-{n}", "sentence": f"One {n}.", "label": str(n == 0)}
            for one in sets
            for n in (0, 1)
        ]
        put(tmp_path / f"nlvr2/data/{split}.json", "\n".join(map(json.dumps, rows)))
        put(tmp_path / f"nlvr2/data/balanced/balanced_{split}.json", "\n".join(map(json.dumps, rows[:2])))
        for one in sets:
            for side in (0, 1):
                save(tmp_path / split / f"{split}-{one}-0-img{side}.png", 2 * one + side)
    return tmp_path


def test_nlvr2s_own_layout(nlvr2: Path) -> None:
    assert len(load_nlvr2(nlvr2).statements) == 6
    assert len(load_nlvr2(nlvr2, split="test2").statements) == 4
    assert len(load_nlvr2(nlvr2 / "nlvr2/data/test1.json").statements) == 6
    assert len(load_nlvr2(nlvr2 / "nlvr2/data/balanced/balanced_test1.json", None, None).statements) == 2
    with pytest.raises(HarnessError, match="no split 'test'; there is test1, test2"):
        load_nlvr2(nlvr2, split="test")
    for where in (nlvr2, nlvr2 / "nlvr2/data/test1.json"):
        text, good = check(where)
        assert good
        assert f"--tasks nlvr2 --data {where}" in text


def test_a_closed_list_is_read_with_what_is_wrong_in_it(tmp_path: Path) -> None:
    vqa(tmp_path, ["red"] * 10)
    put(tmp_path / "answer_list.json", ["red", "red", "blue"])
    assert load_questions(tmp_path).answers == ("red", "blue")
    assert "odd: answers listed twice: 1" in check(tmp_path)[0]
    put(tmp_path / "answer_list.json", ["red", None, 3])
    with pytest.raises(HarnessError, match=r"answer_list.json: answer 1 is empty or no text"):
        load_questions(tmp_path)


def test_identifiers_and_splits_that_cannot_be_understood_are_reported(nlvr2: Path, tmp_path: Path) -> None:
    path = nlvr2 / "nlvr2/data/test1.json"
    row = {"identifier": "tset-9-0-0", "sentence": "A.", "label": "True"}
    path.write_text(path.read_text() + "\n" + json.dumps(row))
    with pytest.raises(HarnessError, match="the identifier 'tset-9-0-0' is not split-set-pair-sentence"):
        load_nlvr2(path)
    save(tmp_path / "k" / "a.jpg", 1)
    rows = [{"filename": "a.jpg", "split": split, "sentences": [{"raw": "A"}]} for split in ("test", "tset")]
    put(tmp_path / "k" / "d.json", {"images": rows})
    with pytest.raises(HarnessError, match="image 1 is of the split 'tset'; correct it, or name it with --split"):
        load_captions(tmp_path / "k")


@pytest.mark.parametrize("damaged", ["", "[]", "{", "null", '{"annotations": [], "images": []}'])
def test_a_damaged_split_file_never_lets_another_be_read(tmp_path: Path, damaged: str) -> None:
    save(tmp_path / "a.jpg", 1)
    put(tmp_path / "x_val.json", [{"image": "a.jpg", "caption": ["A", "B"]}])
    put(tmp_path / "x_test.json", damaged)
    with pytest.raises(HarnessError, match=r"x_test.json: "):
        load_captions(tmp_path)
    assert not check(tmp_path)[1]


@pytest.mark.parametrize("damaged", ["", "not an id\n", "999\n"])
def test_nor_does_a_damaged_list_of_a_split(tmp_path: Path, damaged: str) -> None:
    save(tmp_path / "images" / "11.jpg", 1)
    put(tmp_path / "Sentences" / "11.txt", "[/EN#1/people A girl] sits .\n")
    put(tmp_path / "val.txt", "11\n")
    assert len(load_captions(tmp_path).captions) == 1
    put(tmp_path / "test.txt", damaged)
    with pytest.raises(HarnessError, match=r"test.txt: named as the list of test, but"):
        load_captions(tmp_path)


def test_blips_reference_captions_are_one_thing_for_check_and_for_run(tmp_path: Path) -> None:
    save(tmp_path / "COCO_val2014_000000000007.jpg", 7)
    put(tmp_path / "gt.json", {"annotations": [{"image_id": 7, "id": 1, "caption": "A"}], "images": [{"id": 7}]})
    assert len(load("captions", tmp_path).captions) == 1
    assert "--tasks retrieval" in check(tmp_path)[0]


def test_a_split_whose_entries_are_of_another_form_lets_no_other_be_read(tmp_path: Path) -> None:
    save(tmp_path / "0.jpg", 0)
    put(tmp_path / "mine_val.json", [{"image": "0.jpg", "caption": "a", "image_id": 1}])
    put(tmp_path / "mine_test.json", [{"img": "0.jpg", "text": "a"}])
    put(tmp_path / "instances_test.json", {"info": 1})
    with pytest.raises(HarnessError, match=r"mine_test\.json: named as test, but its entries are of another form"):
        load_captions(tmp_path)
    text, good = check(tmp_path)
    assert not good
    assert "mine_test.json: named as test" in text
    assert len(load_captions(tmp_path / "mine_val.json").captions) == 1
    (tmp_path / "mine_test.json").unlink()
    assert len(load_captions(tmp_path).captions) == 1
