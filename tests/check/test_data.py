"""Facts about `check data`: it counts what is there, and says what is missing, odd or unusable."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.check import data
from harness.check.data import lines
from harness.data.pairs import PRETRAIN_BATCH, PRETRAIN_MODEL
from harness.data.scenes import scenes_folder, write_scenes
from harness.kit.errors import HarnessError
from harness.kit.registry import tasks
from harness.objectives.parts.recipe import recipe_of
from harness.run import unknown
from harness.run.choose import chosen_hosts

ROOT = Path(__file__).parents[2]


def put(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def picture(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path)


def pictures(folder: Path, names: Iterable[str]) -> None:
    for shade, name in enumerate(names):
        picture(folder / name, shade)


def told(folder: Path) -> tuple[list[str], bool]:
    found = lines(folder)
    return [line.strip() for line, _ in found], all(good for _, good in found)


def finding(found: list[str], label: str) -> str:
    """The line about a label, after its word."""
    return next(line for line in found if f": {label}: " in line)


def test_scenes_are_counted_with_the_commands_that_evaluate_them(tmp_path: Path) -> None:
    write_scenes(tmp_path / "my world", "val", 3, 0)
    found, good = told(tmp_path / "my world")
    assert good
    assert "COCO captions: captions_val.json, split val" in found
    assert "3 images, 15 captions, 5 captions each" in found
    assert any(line.startswith("3 images, 6 questions, 10 answers each") for line in found)
    for task in ("retrieval", "captioning", "vqa", "entailment", "nlvr2"):
        assert f"python -m harness run --method elip --tasks {task} --data '{tmp_path}/my world'" in found


def test_one_file_is_checked_alone_with_commands_that_read_it(tmp_path: Path) -> None:
    write_scenes(tmp_path, "val", 3, 0)
    found, good = told(tmp_path / "ve_val.json")
    assert good
    assert found[0] == "ALBEF entailment sentences: ve_val.json, split val"
    commands = [line for line in found if line.startswith("python -m harness run")]
    assert len(commands) == 1
    assert f"--tasks entailment --data {tmp_path}/ve_val.json" in commands[0]
    assert not any(line.startswith("also there") for line in found)


def test_every_task_is_done_by_weights_that_ship() -> None:
    """The commands name no host: `run` takes the first whose shipped weights can do the task."""
    data = str(scenes_folder(3, 0))
    for task in tasks.names():
        if tasks.get(task).unavailable() is None:
            assert chosen_hosts(None, task, None, data)


def test_the_batch_that_small_sets_are_pre_trained_with_is_below_the_recipes() -> None:
    assert recipe_of(PRETRAIN_MODEL, {}).batch_size == PRETRAIN_BATCH


def test_captions_with_everything_wrong(tmp_path: Path) -> None:
    pictures(tmp_path, ("1.jpg", "2.jpg"))
    picture(tmp_path / "3.jpg", 0)
    (tmp_path / "4.jpg").touch()
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2, 3, 4, 5, 6)]
    said = [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5), (7, 6), (7, 1), (8, 9)]
    rows: list[dict[str, Any]] = [{"id": one, "image_id": image, "caption": "A cat"} for one, image in said]
    put(tmp_path / "c.json", {"images": images, "annotations": [*rows, {"id": 9, "image_id": 1, "caption": ""}]})
    found, good = told(tmp_path)
    assert not good
    assert "4 images, 6 captions, 1 to 3 captions each" in found
    assert finding(found, "images not found").startswith(
        f"unusable: images not found: 2 (first: {tmp_path}/c.json: names"
    )
    assert finding(found, "repeated caption ids").startswith("unusable: repeated caption ids: 1 (first: ")
    assert "caption 8 is of image 9" in finding(found, "captions of unknown images")
    assert "caption 9 is empty" in finding(found, "empty captions")
    assert "4.jpg: cannot be read (it is empty)" in finding(found, "unreadable images")
    assert finding(found, "images that are the same file as another").startswith("odd: ")
    assert not any("--tasks retrieval" in line for line in found)


def test_questions_and_annotations_that_do_not_fit(tmp_path: Path) -> None:
    picture(tmp_path / "COCO_val2014_000000000007.jpg")
    asked = [{"question_id": number, "image_id": 7, "question": "What?"} for number in (1, 2, 3)]
    rows = [(1, 10), (2, 9), (4, 10), (5, 10)]
    answered = [{"question_id": number, "answers": [{"answer": "a"}] * count} for number, count in rows]
    put(tmp_path / "q.json", {"questions": asked[:2]})
    put(tmp_path / "a.json", {"annotations": answered})
    found, good = told(tmp_path)
    assert good
    assert "1 image, 2 questions, 9 to 10 answers each, 1 different answer" in found
    assert finding(found, "annotations without a question").startswith(
        "odd: annotations without a question: 2 (first: "
    )
    assert "question 2 has 9 of 10 answers" in finding(found, "questions with fewer than 10 answers")
    put(tmp_path / "q.json", {"questions": asked})
    put(tmp_path / "a.json", {"annotations": [*answered, answered[0]]})
    found, good = told(tmp_path)
    assert not good
    assert "no annotation for question 3 of q.json" in finding(found, "questions without annotation")
    assert "annotations: the id 1 stands there twice" in finding(found, "repeated annotations")


def test_questions_without_any_annotations_are_for_the_server(tmp_path: Path) -> None:
    picture(tmp_path / "COCO_test2015_000000000007.jpg")
    put(tmp_path / "q.json", {"questions": [{"question_id": 1, "image_id": 7, "question": "What?"}]})
    command = f"python -m harness answer --method elip --data {tmp_path} --out answers.json"
    found, good = told(tmp_path)
    assert good
    assert {"1 image, 1 question", command} <= set(found)
    assert f"{tmp_path}/q.json: no answers in it and no annotations" in finding(found, "questions without annotations")
    put(tmp_path / "a.json", {"annotations": [{"question_id": 1, "answers": [{"answer": "a"}] * 10}]})
    found, good = told(tmp_path)
    assert good
    assert command not in found


def test_images_without_captions_are_counted_and_left_out(tmp_path: Path) -> None:
    pictures(tmp_path, ("1.jpg", "2.jpg", "3.jpg"))
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2, 3)]
    put(tmp_path / "c.json", {"images": images, "annotations": [{"id": 1, "image_id": 2, "caption": "A cat"}]})
    found, good = told(tmp_path)
    assert good
    assert "1 image, 1 caption, 1 captions each" in found
    assert "odd: images without captions, left out: 2 (first: " in finding(found, "images without captions, left out")


def test_entailment_is_counted_by_label(tmp_path: Path) -> None:
    picture(tmp_path / "11.jpg")
    rows = [{"Flickr30K_ID": "11", "sentence2": "A", "gold_label": label} for label in ("neutral", "-", "neutral")]
    put(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    found, good = told(tmp_path)
    assert good
    assert "1 image, 2 sentences: 0 contradiction, 2 neutral, 0 entailment" in found
    put(tmp_path / "a.jsonl", json.dumps(rows[0] | {"gold_label": "unsure"}))
    found, good = told(tmp_path)
    assert not good
    assert "has the label 'unsure'" in finding(found, "labels outside the known")


def test_pairs_of_which_one_image_is_missing(tmp_path: Path) -> None:
    pictures(tmp_path, [f"dev-8-{pair}-img{side}.png" for pair in (0, 1) for side in (0, 1)])
    rows = [{"identifier": f"dev-8-{pair}-0", "sentence": "A", "label": str(pair == 0)} for pair in (0, 1)]
    put(tmp_path / "a.json", "\n".join(map(json.dumps, rows)))
    found, good = told(tmp_path)
    assert good
    assert "4 images, 2 pairs, 2 statements of 1 sentence: 1 true, 1 false" in found
    (tmp_path / "dev-8-1-img0.png").unlink()
    found, good = told(tmp_path)
    assert not good
    assert "2 images, 1 pair, 1 statement of 1 sentence: 1 true, 0 false" in found
    assert "the image dev-8-1-img0" in finding(found, "statements with an image not found")


def test_classes_without_images(tmp_path: Path) -> None:
    pictures(tmp_path, ("ape/1.png", "ape/2.png", "dog/1.png"))
    put(tmp_path / "t.txt", "a photo of a {}.\n")
    found, good = told(tmp_path)
    assert good
    assert {"3 images, 2 classes, 1 to 2 images each", "named ape, dog", "1 template"} <= set(found)
    (tmp_path / "owl").mkdir()
    found, good = told(tmp_path)
    assert not good
    assert f"{tmp_path}/owl: a class without images" in finding(found, "classes without images")


def test_a_list_of_pairs_is_for_pre_training(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    put(tmp_path / "p.json", [{"image": "a.jpg", "caption": "A"}, {"image": "b.jpg", "caption": "B"}])
    found, good = told(tmp_path)
    assert good
    assert "2 pairs, 2 captions" in found
    assert any(line.startswith("odd: ") and "1 of 2 images do not exist" in line for line in found)
    assert (
        f"python -m harness pretrain --model albef-tiny --data {tmp_path}/p.json --batch-size 2 --max-bad-share 0.5"
        in found
    )
    (tmp_path / "a.jpg").unlink()
    assert not told(tmp_path)[1]


def shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def test_shards_are_read_and_their_bad_pairs_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    image = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").unlink()
    shard(tmp_path / "0.tar", {"1.jpg": image, "1.txt": b"One", "2.jpg": b"no image", "2.txt": b"Two"})
    shard(tmp_path / "1.tar", {"3.jpg": image, "3.txt": "Drei Bäume".encode("latin-1"), "4.txt": b"Four"})
    found, good = told(tmp_path)
    assert good
    assert "2 shards, 4 pairs, 3 captions" in found
    assert "0.tar/2: cannot be read" in finding(found, "unreadable images")
    assert "1.tar/3" in finding(found, "pairs without caption")
    assert "1.tar/4" in finding(found, "pairs without image")
    assert (
        f"python -m harness pretrain --model albef-tiny --data '{tmp_path}/*.tar' --batch-size 4 --max-bad-share 0.75"
        in found
    )
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[: len(whole) // 4])
    assert "0.tar" in finding(told(tmp_path)[0], "damaged shards, read up to the damage")


def test_sentences_are_said_to_be_for_the_metrics(tmp_path: Path) -> None:
    put(tmp_path / "hyp.txt", "A cat\nA dog\n")
    put(tmp_path / "ref.txt", "One cat\nOne dog\n")
    found, good = told(tmp_path)
    assert good
    assert found == [
        "sentences, one per line: hyp.txt, ref.txt",
        "2 lines each, taken for captions (hyp.txt) and references",
        "no images",
        f"python -m harness check captions {tmp_path}/hyp.txt {tmp_path}/ref.txt",
    ]
    put(tmp_path / "model.txt", "A cat\nA dog\n")
    (tmp_path / "hyp.txt").rename(tmp_path / "REF2.txt")
    assert told(tmp_path)[0][-1].endswith(f" captions {tmp_path}/model.txt {tmp_path}/REF2.txt {tmp_path}/ref.txt")
    named, good = told(tmp_path / "ref.txt")
    assert good
    assert named[-1].endswith(f" captions {tmp_path}/ref.txt {tmp_path}/model.txt {tmp_path}/REF2.txt")


def test_sentences_of_a_folder_are_one_set(tmp_path: Path) -> None:
    for name in ("one/hyp", "one/ref", "other/hyp", "other/ref"):
        put(tmp_path / f"{name}.txt", "A cat\n")
    commands = [line for line in told(tmp_path)[0] if line.startswith("python")]
    assert commands == [
        f"python -m harness check captions {tmp_path}/{name}/hyp.txt {tmp_path}/{name}/ref.txt"
        for name in ("one", "other")
    ]


@pytest.mark.parametrize("content", ["{", "", "caf\xe9"])
def test_a_file_that_cannot_be_read_makes_the_folder_unusable(tmp_path: Path, content: str) -> None:
    picture(tmp_path / "a.jpg")
    put(tmp_path / "p.json", [{"image": "a.jpg", "caption": "A"}])
    (tmp_path / "q.json").write_bytes(content.encode("latin-1"))
    found, good = told(tmp_path)
    assert not good
    assert found[0].startswith(f"unusable: {tmp_path}/q.json: ")
    assert told(tmp_path / "p.json")[1]


def test_files_that_are_not_read_are_listed(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    for split in ("train", "test"):
        put(tmp_path / f"x_{split}.json", [{"image": "a.jpg", "caption": ["A", "B"]}])
    put(tmp_path / "other.json", {"about": "nothing"})
    found, good = told(tmp_path)
    assert good
    assert found[0] == "ALBEF/BLIP captions: x_test.json, split test"
    assert "also there: ALBEF/BLIP captions: x_train.json, split train" in found
    assert "also there: not recognised: other.json" in found


@pytest.mark.parametrize("left", ["results/runs", "harness/assets/albef-tiny"])
def test_what_a_run_left_beside_a_set_is_not_taken_for_part_of_it(tmp_path: Path, left: str) -> None:
    picture(tmp_path / "a.jpg")
    put(tmp_path / "x_test.json", [{"image": "a.jpg", "caption": ["A", "B"]}])
    before = told(tmp_path)
    (tmp_path / "out").mkdir()
    files = [path for path in sorted((ROOT / left).iterdir()) if path.is_file()]
    for path in [*files[:4], *(path for path in files[4:] if "comparisons" in path.name)]:
        shutil.copy(path, tmp_path / "out" / path.name)
    found, good = told(tmp_path)
    assert good
    assert [line for line in found if "not recognised" not in line] == before[0]


def test_of_karpathys_file_the_test_split_is_read(tmp_path: Path) -> None:
    picture(tmp_path / "b.jpg")
    rows = [
        {"filename": f"{name}.jpg", "split": split, "sentences": [{"raw": "A"}]}
        for name, split in (("a", "train"), ("b", "test"))
    ]
    put(tmp_path / "d.json", {"images": rows})
    found, good = told(tmp_path)
    assert good
    assert found[:2] == [
        "Karpathy's captions: d.json, split test of train, test",
        "1 image, 1 caption, 1 captions each",
    ]


def test_a_choice_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    for name in ("x", "y"):
        put(tmp_path / f"{name}.json", [{"image": "a.jpg", "caption": ["A", "B"]}])
    found, good = told(tmp_path)
    assert not good
    assert found[1].endswith("several files of captions (x.json, y.json); name one of the files, or keep one")


def test_a_folder_without_annotations(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    found, good = told(tmp_path)
    assert not good
    assert found == [
        f"{tmp_path}: no annotations that a command reads (1 image, 0 other files); keep files as published"
    ]
    with pytest.raises(HarnessError, match="no such folder"):
        lines(tmp_path / "absent")


def test_pictures_that_no_shipped_host_knows_are_said_beside_the_commands(tmp_path: Path) -> None:
    """The built-in world's own are known; flat grey ones are not."""
    write_scenes(tmp_path / "world", "val", 4, 0)
    assert not any("unlike" in line for line in told(tmp_path / "world")[0])
    pictures(tmp_path / "grey", ("1.png", "2.png"))
    images = [{"id": number, "file_name": f"{number}.png"} for number in (1, 2)]
    captions = [{"id": number, "image_id": number, "caption": "nothing"} for number in (1, 2)]
    put(tmp_path / "grey/captions_val.json", {"images": images, "annotations": captions})
    found, good = told(tmp_path / "grey")
    assert good
    expected = "odd: pictures unlike those of scenes, which albef-tiny and blip-tiny know: "
    assert any(line.startswith(expected) and "--weights" in line for line in found)
    assert data.MANY_UNKNOWN == unknown.MANY_UNKNOWN  # as `run` warns
