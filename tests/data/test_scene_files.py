"""Facts about the built-in world on disk: every task finds its files, and they are the same each time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data import scenes as files
from harness.data.formats import load_captions, load_classes, load_entailment, load_nlvr2, load_questions
from harness.data.scene_classes import TEMPLATES, class_name, class_scenes
from harness.data.scene_layout import TYPES, make_scenes, render
from harness.kit.errors import HarnessError

HYPOTHESES = "1fabd959a637558b182f204cfcda5f61c7577adeeeba995affa0c49960e68238"
STATEMENTS = "a042a3ebcfa55f7f01015e229efbf90f19fa83dcd56f68d923832d7b1f188a36"
CLASS_PIXELS = "71483dc3df9336b1535dc07521dd4feefa1c07d77a621cb386a1d2b8750e1814"


def test_hypotheses_and_statements_are_pinned() -> None:
    scenes = list(make_scenes(0, "val", 20))
    said = (files.albef_ve(scenes), files.albef_nlvr(scenes))
    assert [hashlib.sha256(json.dumps(one).encode()).hexdigest() for one in said] == [HYPOTHESES, STATEMENTS]


def test_images_of_classes_are_pinned() -> None:
    pictures = [render(scene).tobytes() for split in ("train", "val") for scene in class_scenes(0, split, 1)]
    assert hashlib.sha256(b"".join(pictures)).hexdigest() == CLASS_PIXELS
    assert len(set(pictures)) == 2 * TYPES


def test_an_image_of_a_class_shows_its_object_alone() -> None:
    scenes = list(class_scenes(3, "val", 2))
    assert [scene.things[0].type for scene in scenes] == [kind for kind in range(TYPES) for _ in range(2)]
    assert [class_name(scene) for scene in scenes[:3]] == ["red_circle", "red_circle", "green_circle"]
    for scene in scenes:
        assert len(scene.things) == 1
        assert len({scene.things[0].cell, *scene.distractors}) == 13
    assert scenes[::2] == list(class_scenes(3, "val", 1))


def test_folder_is_written_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    folder = files.scenes_folder(3, 5)
    before = (folder / files.MARKER).stat().st_mtime_ns
    assert files.scenes_folder(3, 5) == folder
    assert (folder / files.MARKER).stat().st_mtime_ns == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]
    assert len(list((folder / "images").iterdir())) == 3


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "world"
    files.write_scenes(folder, "val", 8, 0)
    return folder


def test_every_task_finds_its_files(written: Path) -> None:
    names = [f"{index:012d}.png" for index in range(8)]
    captions, questions = load_captions(written), load_questions(written)
    assert [image.name for image in captions.images] == [image.name for image in questions.images] == names
    assert (len(captions.captions), len(questions.questions)) == (40, 16)

    entailment = load_entailment(written)
    assert [image.name for image in entailment.images] == names
    assert np.bincount([one.label for one in entailment.hypotheses]).tolist() == [8, 8, 8]

    pairs = load_nlvr2(written)
    assert sorted(image.name for image in pairs.images) == names
    assert len(pairs.statements) == 16
    truths: dict[str, set[bool]] = {}
    for one in pairs.statements:
        truths.setdefault(one.group, set()).add(one.label)
    assert all(found == {True, False} for found in truths.values())
    assert len(load_nlvr2(written, limit=4).statements) == 8


def test_classes_are_found_beside_the_scenes(written: Path) -> None:
    found = load_classes(written / files.CLASSES)
    assert len(found.classes) == len(found.classified) == TYPES
    assert found.classes[0] == "blue circle"
    assert found.templates == TEMPLATES
    assert {one.image.parent.name.replace("_", " ") for one in found.classified} == set(found.classes)
    training = load_classes(written / files.CLASSES, split="train")
    assert training.classes == found.classes
    assert not {one.image for one in training.classified} & {one.image for one in found.classified}


def test_the_marker_tells_of_every_file(written: Path) -> None:
    marker = json.loads((written / files.MARKER).read_text())
    for name in ("captions", "questions", "annotations", "ve", "nlvr"):
        content = (written / f"{name}_val.json").read_bytes()
        assert marker.pop(f"{name}_sha256") == hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256((written / files.CLASSES / "templates.txt").read_bytes())
    for split in ("train", "val"):
        for scene in class_scenes(0, split, 1):
            name = class_name(scene)
            with Image.open(written / files.CLASSES / split / name / f"{name}_0.png") as picture:
                digest.update(np.asarray(picture).tobytes())
    assert marker.pop("classes_sha256") == digest.hexdigest()
    assert sorted(marker) == ["count", "pixels_sha256"]


def test_folders_of_the_same_scenes_are_the_same(written: Path, tmp_path: Path) -> None:
    files.write_scenes(tmp_path / "again", "val", 8, 0)
    both = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in (written, tmp_path / "again")]
    assert both[0] == both[1]
    for name in both[0]:
        if (written / name).is_file():
            assert (written / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_larger_worlds_have_more_images_of_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "SCENES_PER_CLASS_IMAGE", 2)
    files.write_scenes(tmp_path / "world", "train", 4, 0)
    found = load_classes(tmp_path / "world" / files.CLASSES, split="train")
    assert np.bincount([one.label for one in found.classified]).tolist() == [3] * TYPES


def test_older_scenes_are_replaced_but_nothing_else_is(tmp_path: Path) -> None:
    files.write_scenes(tmp_path / "world", "val", 3, 5)
    files.write_scenes(tmp_path / "world", "val", 2, 5)
    assert len(list((tmp_path / "world" / "images").iterdir())) == 2
    with pytest.raises(HarnessError, match="holds something other than whole scenes"):
        files.write_scenes(tmp_path, "val", 1, 0)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("HARNESS_CACHE", str(blocked))
    with pytest.raises(HarnessError, match=r"cannot be written.*HARNESS_CACHE"):
        files.scenes_folder(1, 0)
