"""Facts about recognising annotation files: by what is in them, whatever they are called."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.data.annotations import recognise as recognising
from harness.data.annotations.format import known_formats, split_named
from harness.data.annotations.listing import Listing
from harness.data.annotations.recognise import recognise, recognised

KINDS = {
    "COCO captions": {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "caption": "A"}]},
    "Karpathy's captions": {"images": [{"filename": "a", "sentences": [{"raw": "A"}]}]},
    "BLIP's reference captions": {"annotations": [{"image_id": 1, "id": 1, "caption": "A"}], "images": [{"id": 1}]},
    "ALBEF/BLIP captions": [{"image": "a", "caption": ["A", "B"]}],
    "image-text pairs for pre-training": [{"image": "a", "caption": "A"}],
    "VQA v2 questions": {"questions": [{"question_id": 1, "image_id": 1, "question": "A?"}]},
    "VQA v2 annotations": {"annotations": [{"question_id": 1, "answers": [{"answer": "a"}]}]},
    "ALBEF questions": [{"question_id": 1, "question": "A?", "answer": ["a"], "image": "a"}],
    "ALBEF questions without answers": [{"question_id": 1, "question": "A?", "image": "a"}],
    "answer list": ["yes", "no"],
    "templates of sentences about a class": ["a photo of {}"],
    "SNLI-VE sentences": [{"Flickr30K_ID": "1", "sentence2": "A", "gold_label": "neutral"}],
    "ALBEF entailment sentences": [{"image": "a", "sentence": "A", "label": "neutral"}],
    "NLVR2 statements": [{"identifier": "dev-1-0-0", "sentence": "A", "label": "True"}],
    "ALBEF statements about image pairs": [{"images": ["a", "b"], "sentence": "A", "label": "True"}],
    "not recognised": {"images": [{"id": 1}], "annotations": [{"bbox": [0, 0, 1, 1]}]},
}


def title_of(folder: Path, content: Any) -> str:
    (folder / "some.json").write_text(json.dumps(content))
    return recognised(folder / "some.json", known_formats()).kind.title


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_known_by_its_fields(tmp_path: Path, kind: str) -> None:
    assert title_of(tmp_path, KINDS[kind]) == kind


def test_a_damaged_first_entry_hides_no_kind(tmp_path: Path) -> None:
    for kind, content in KINDS.items():
        if isinstance(content, list) and isinstance(content[0], dict):
            assert title_of(tmp_path, [{"damaged": 1}, *content]) == kind


def test_albefs_training_captions_are_told_from_pairs_by_their_image_id(tmp_path: Path) -> None:
    assert title_of(tmp_path, [{"image": "a", "caption": "A", "image_id": "coco_1"}]) == "ALBEF/BLIP captions"


@pytest.mark.parametrize("content", [[], {}, "text", 3, None, [1, 2], [[1]], {"annotations": []}, {"images": [1]}])
def test_anything_else_is_not_recognised(tmp_path: Path, content: Any) -> None:
    assert title_of(tmp_path, content) == "not recognised"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("captions_train2017", "train"),
        ("coco_karpathy_val_gt", "val"),
        ("tiny-dev", "dev"),
        ("test1-0-0-0", "test"),
        ("restval", "restval"),
        ("validation", "val"),
        ("latest", None),
        ("evaluation", None),
        ("trainers", None),
    ],
)
def test_splits_are_words_of_a_name(name: str, split: str | None) -> None:
    assert split_named(name) == split


def kinds_in(folder: Path) -> dict[str, str]:
    return {one.path.relative_to(folder).as_posix(): one.kind.title for one in recognise(Listing(folder))}


def tar(path: Path, *names: str) -> None:
    with tarfile.open(path, "w") as shard:
        for name in names:
            shard.addfile(tarfile.TarInfo(name), io.BytesIO())


def test_a_folder_of_many_sets(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "1.jpg")
    (tmp_path / "images" / "1.json").write_text("of no interest")
    (tmp_path / ".hidden.json").write_text("of no interest")
    (tmp_path / "x.json").write_text(json.dumps(KINDS["Karpathy's captions"]))
    (tmp_path / "y.jsonl").write_text(json.dumps(KINDS["SNLI-VE sentences"][0]))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty.json").write_text("")
    tar(tmp_path / "000.tar", "a.jpg", "a.txt")
    tar(tmp_path / "code.tar", "a.py", "a.txt")
    assert kinds_in(tmp_path) == {
        "broken.json": "unreadable",
        "empty.json": "unreadable",
        "x.json": "Karpathy's captions",
        "y.jsonl": "SNLI-VE sentences",
        "000.tar": "webdataset shard",
    }


def test_files_of_equally_many_lines_are_sentences(tmp_path: Path) -> None:
    for name in ("hyp", "ref1"):
        (tmp_path / f"{name}.txt").write_text("one sentence\nanother\n")
    assert set(kinds_in(tmp_path).values()) == {"sentences, one per line"}
    (tmp_path / "ref1.txt").write_text("one sentence\n")
    assert kinds_in(tmp_path) == {}


def test_a_large_file_without_a_known_field_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognising, "_PARSED_ALWAYS_BYTES", 10)
    (tmp_path / "instances.json").write_text('{"annotations": [broken, as nobody parses it')
    (tmp_path / "pairs.json").write_text(json.dumps(KINDS["image-text pairs for pre-training"]))
    assert kinds_in(tmp_path) == {"instances.json": "not recognised", "pairs.json": "image-text pairs for pre-training"}
