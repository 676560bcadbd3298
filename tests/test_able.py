"""Facts about --tasks all: what the weights have heads for and the data annotations of, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.able import able_tasks
from harness.data.scenes import write_scenes
from harness.errors import HarnessError
from harness.models.build import build_host
from harness.models.checkpoints import save_weights


def test_the_shipped_weights_on_the_built_in_world() -> None:
    assert able_tasks("albef-tiny", None, "scenes") == ("classification", "retrieval", "vqa")


def test_weights_decide_by_the_task_they_were_fine_tuned_on(tmp_path: Path) -> None:
    save_weights(build_host("albef-tiny", task="entailment"), tmp_path / "model.safetensors", "albef-tiny")
    assert "entailment" in able_tasks("albef-tiny", tmp_path, "scenes")
    assert "vqa" not in able_tasks("albef-tiny", tmp_path, "scenes")


def test_questions_need_a_closed_list(tmp_path: Path) -> None:
    save_weights(build_host("blip-tiny"), tmp_path / "model.safetensors", "blip-tiny")
    assert able_tasks("blip-tiny", tmp_path, "scenes") == ("captioning", "classification", "retrieval")


def test_data_decide_by_what_they_hold(tmp_path: Path) -> None:
    write_scenes(tmp_path / "world", "val", 2, 0)
    assert able_tasks("albef-tiny", None, str(tmp_path / "world")) == ("classification", "retrieval", "vqa")
    for name in ("questions_val.json", "annotations_val.json"):
        (tmp_path / "world" / name).unlink()
    assert able_tasks("albef-tiny", None, str(tmp_path / "world")) == ("classification", "retrieval")


def test_a_file_that_cannot_be_read_is_no_reason_to_leave_its_task_out(tmp_path: Path) -> None:
    write_scenes(tmp_path / "world", "val", 2, 0)
    (tmp_path / "world" / "captions_val.json").write_text('{"images": [')
    with pytest.raises(HarnessError, match="captions_val"):
        able_tasks("albef-tiny", None, str(tmp_path / "world"))


def test_nothing_to_do_is_said_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "ve.json").write_text(json.dumps([{"image": "a.jpg", "sentence": "a dog", "label": "neutral"}]))
    with pytest.raises(HarnessError, match=r"no task for albef-tiny on .* which holds hypotheses: it can do class"):
        able_tasks("albef-tiny", None, str(tmp_path))
    with pytest.raises(HarnessError, match="no such folder"):
        able_tasks("albef-tiny", None, str(tmp_path / "nowhere"))
