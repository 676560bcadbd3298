"""Facts about recognising annotation files: by what is in them, whatever they are called."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from harness.data.formats import recognise as recognising
from harness.data.formats.kinds import Kind, kind_of, split_named
from harness.data.formats.listing import Listing
from harness.data.formats.recognise import recognise

KINDS = {
    Kind.COCO_CAPTIONS: {"images": [{"id": 1, "file_name": "a"}], "annotations": [{"image_id": 1, "caption": "A"}]},
    Kind.KARPATHY: {"images": [{"filename": "a", "sentences": [{"raw": "A"}]}]},
    Kind.CAPTION_REFERENCES: {"annotations": [{"image_id": 1, "id": 1, "caption": "A"}], "images": [{"id": 1}]},
    Kind.CAPTION_LIST: [{"image": "a", "caption": ["A", "B"]}],
    Kind.PAIRS: [{"image": "a", "caption": "A"}],
    Kind.VQA_QUESTIONS: {"questions": [{"question_id": 1, "image_id": 1, "question": "A?"}]},
    Kind.VQA_ANNOTATIONS: {"annotations": [{"question_id": 1, "answers": [{"answer": "a"}]}]},
    Kind.ALBEF_VQA: [{"question_id": 1, "question": "A?", "answer": ["a"], "image": "a"}],
    Kind.ALBEF_VQA_UNANSWERED: [{"question_id": 1, "question": "A?", "image": "a"}],
    Kind.ANSWER_LIST: ["yes", "no"],
    Kind.TEMPLATES: ["a photo of {}"],
    Kind.SNLI_VE: [{"Flickr30K_ID": "1", "sentence2": "A", "gold_label": "neutral"}],
    Kind.ALBEF_VE: [{"image": "a", "sentence": "A", "label": "neutral"}],
    Kind.NLVR2: [{"identifier": "dev-1-0-0", "sentence": "A", "label": "True"}],
    Kind.ALBEF_NLVR: [{"images": ["a", "b"], "sentence": "A", "label": "True"}],
    Kind.UNKNOWN: {"images": [{"id": 1}], "annotations": [{"bbox": [0, 0, 1, 1]}]},
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_kind_is_known_by_its_fields(kind: Kind) -> None:
    assert kind_of(KINDS[kind]) is kind


def test_albefs_training_captions_are_told_from_pairs_by_their_image_id() -> None:
    assert kind_of([{"image": "a", "caption": "A", "image_id": "coco_1"}]) is Kind.CAPTION_LIST


@pytest.mark.parametrize("content", [[], {}, "text", 3, None, [1, 2], [[1]], {"annotations": []}, {"images": [1]}])
def test_anything_else_is_not_recognised(content: Any) -> None:
    assert kind_of(content) is Kind.UNKNOWN


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


def kinds_in(folder: Path) -> dict[str, Kind]:
    return {one.path.relative_to(folder).as_posix(): one.kind for one in recognise(Listing(folder))}


def tar(path: Path, *names: str) -> None:
    with tarfile.open(path, "w") as shard:
        for name in names:
            shard.addfile(tarfile.TarInfo(name), io.BytesIO())


def test_a_folder_of_many_sets(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "images" / "1.jpg")
    (tmp_path / "images" / "1.json").write_text("of no interest")
    (tmp_path / ".hidden.json").write_text("of no interest")
    (tmp_path / "x.json").write_text(json.dumps(KINDS[Kind.KARPATHY]))
    (tmp_path / "y.jsonl").write_text(json.dumps(KINDS[Kind.SNLI_VE][0]))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty.json").write_text("")
    tar(tmp_path / "000.tar", "a.jpg", "a.txt")
    tar(tmp_path / "code.tar", "a.py", "a.txt")
    assert kinds_in(tmp_path) == {
        "broken.json": Kind.UNREADABLE,
        "empty.json": Kind.UNREADABLE,
        "x.json": Kind.KARPATHY,
        "y.jsonl": Kind.SNLI_VE,
        "000.tar": Kind.SHARDS,
    }


def test_files_of_equally_many_lines_are_sentences(tmp_path: Path) -> None:
    for name in ("hyp", "ref1"):
        (tmp_path / f"{name}.txt").write_text("one sentence\nanother\n")
    assert set(kinds_in(tmp_path).values()) == {Kind.SENTENCES}
    (tmp_path / "ref1.txt").write_text("one sentence\n")
    assert kinds_in(tmp_path) == {}


def test_a_large_file_without_a_known_field_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognising, "_PARSED_ALWAYS_BYTES", 10)
    (tmp_path / "instances.json").write_text('{"annotations": [broken, as nobody parses it')
    (tmp_path / "pairs.json").write_text(json.dumps(KINDS[Kind.PAIRS]))
    assert kinds_in(tmp_path) == {"instances.json": Kind.UNKNOWN, "pairs.json": Kind.PAIRS}
