"""Facts about checkpoints: whole or not at all, checked by digest, and only for the run that wrote them."""

from __future__ import annotations

import errno
import hashlib
import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.kit.errors import HarnessError
from harness.train.checkpoint import list_checkpoints, load_newest, save_checkpoint

FACTS = {"model": "albef-tiny", "processes": 2, "learning_rate": 0.1}


def state(step: int) -> dict[str, Any]:
    return {"weights": torch.full((50_000,), float(step)), "step": step}


def silent(line: str) -> None:
    raise AssertionError(f"unexpected warning: {line}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of steps 10 and 20."""
    for step in (10, 20):
        save_checkpoint(tmp_path / "checkpoints", step, state(step), FACTS)
    return tmp_path / "checkpoints"


def loaded_step(folder: Path, warn: Callable[[str], None] = silent) -> int:
    found = load_newest(folder, FACTS, warn)
    assert found is not None
    step, content = found
    assert torch.equal(content["weights"], torch.full((50_000,), float(step)))
    return step


def test_the_newest_is_loaded_and_an_empty_folder_has_none(folder: Path) -> None:
    assert loaded_step(folder) == 20
    assert load_newest(folder / "nothing", FACTS, silent) is None


def test_the_last_two_are_kept_and_nothing_else(folder: Path) -> None:
    save_checkpoint(folder, 30, state(30), FACTS)
    names = {f"step-{step:08d}.{kind}" for step in (20, 30) for kind in ("json", "pt")}
    assert {path.name for path in folder.iterdir()} == names


def test_a_state_without_its_note_was_never_finished(folder: Path) -> None:
    (folder / "step-00000020.json").unlink()
    assert loaded_step(folder) == 10


def damaged_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "one bit differs": lambda folder: damaged_byte(folder / "step-00000020.pt"),
    "its end is missing": lambda folder: (folder / "step-00000020.pt").open("r+b").truncate(1000),
    "it is gone": lambda folder: (folder / "step-00000020.pt").unlink(),
    "its note is empty": lambda folder: (folder / "step-00000020.json").write_text(""),
    "its note is another's": lambda folder: (folder / "step-00000020.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_told_and_the_one_before_it_taken(folder: Path, damage: str) -> None:
    DAMAGES[damage](folder)
    lines: list[str] = []
    assert loaded_step(folder, lines.append) == 10
    assert len(lines) == 1
    assert "step-00000020.pt is damaged" in lines[0]
    assert "going back to the one before it" in lines[0]


def test_after_going_back_the_damaged_one_does_not_crowd_out_a_sound_one(folder: Path) -> None:
    damaged_byte(folder / "step-00000020.pt")
    save_checkpoint(folder, 15, state(15), FACTS)
    assert [checkpoint.step for checkpoint in list_checkpoints(folder)] == [15, 10]
    assert loaded_step(folder) == 15


def test_one_that_torch_cannot_read_is_told_though_its_digest_is_right(folder: Path) -> None:
    state, note = folder / "step-00000020.pt", folder / "step-00000020.json"
    state.write_bytes(b"of another program")
    digest = hashlib.sha256(state.read_bytes()).hexdigest()
    note.write_text(json.dumps(json.loads(note.read_text()) | {"sha256": digest}))
    warnings: list[str] = []
    assert loaded_step(folder, warnings.append) == 10
    assert len(warnings) == 1
    assert "step-00000020.pt cannot be read (" in warnings[0]


def test_a_note_of_no_step_is_passed_over(folder: Path) -> None:
    (folder / "step-last.json").write_text("{}")
    assert [one.step for one in list_checkpoints(folder)] == [20, 10]
    assert loaded_step(folder) == 20


def test_where_all_are_damaged_the_run_is_refused(folder: Path) -> None:
    for path in folder.glob("*.pt"):
        damaged_byte(path)
    with pytest.raises(HarnessError, match="all 2 checkpoints are damaged; delete the folder to start afresh"):
        load_newest(folder, FACTS, lambda line: None)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"processes": 4}, "of a run with processes 2, not 4; start the run as it was"),
        ({"learning_rate": 0.2}, "of a run with learning_rate 0.1, not 0.2"),
        ({"model": "clip-tiny"}, "of a run with model albef-tiny, not clip-tiny"),
        ({"recompute": True}, "of a run with recompute None, not True"),
    ],
)
def test_another_run_is_refused_by_what_differs(folder: Path, facts: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        load_newest(folder, FACTS | facts, silent)


def test_what_killed_runs_left_is_removed_by_the_next_checkpoint(folder: Path) -> None:
    for name in ("step-00000025.part", "step-00000024.pt", ".step-00000025.json.77.tmp"):
        (folder / name).write_bytes(b"half")
    (folder / "notes.txt").write_text("of the user")
    assert loaded_step(folder) == 20
    save_checkpoint(folder, 30, state(30), FACTS)
    left = {path.name for path in folder.iterdir()}
    assert {name.split(".")[0] for name in left} == {"notes", "step-00000020", "step-00000030"}


def test_beyond_the_limit_of_the_disk_one_line_is_said_and_earlier_ones_stand(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(HarnessError, match=r"step-00000030.pt: cannot be written: .*earlier checkpoints") as caught:
            save_checkpoint(folder, 30, state(30), FACTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert loaded_step(folder) == 20


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (
            RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed\nframe 0"),
            "file write failed",
        ),
    ],
)
def test_a_full_disk_is_told_whoever_reports_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, said: str
) -> None:
    def full(content: Any, file: Any) -> None:
        file.write(b"half")
        raise failure

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(HarnessError, match=f"{said}; free space and start the same command again") as caught:
        save_checkpoint(folder, 30, state(30), FACTS)
    assert "\n" not in str(caught.value)
    assert not list(folder.glob("*.part"))
    assert loaded_step(folder) == 20


def test_the_note_says_what_the_checkpoint_is_of(folder: Path) -> None:
    note = json.loads((folder / "step-00000020.json").read_text())
    assert note.pop("step") == 20
    assert len(note.pop("sha256")) == 64
    assert note == FACTS
