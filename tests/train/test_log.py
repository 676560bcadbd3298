"""Facts about the training log: an interrupted run's later entries are dropped, and a line cut by a kill with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import HarnessError
from harness.train.log import LOG_FILE, TrainLog


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / LOG_FILE).read_text().splitlines()]


def write(folder: Path, begin: int, steps: range) -> None:
    log = TrainLog(folder, 10, quiet=True)
    log.open(begin)
    for step in steps:
        log.losses(step, 0, {"contrast": 1.0}, 0.1, 8)
    log.close()


def test_going_on_from_a_step_drops_later_entries(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 6))
    write(tmp_path, 3, range(4, 8))
    assert logged(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    write(tmp_path, 0, range(1, 3))
    assert logged(tmp_path) == [1, 2]


def test_a_last_line_cut_by_a_kill_is_dropped(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 4))
    path = tmp_path / LOG_FILE
    path.write_text(path.read_text()[:-20])
    write(tmp_path, 2, range(3, 5))
    assert logged(tmp_path) == [1, 2, 3, 4]


def test_another_file_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_text("my notes\n")
    with pytest.raises(HarnessError, match=r"log.jsonl: not a training log \('my notes'\); move it away"):
        write(tmp_path, 0, range(1, 2))
    assert (tmp_path / LOG_FILE).read_text() == "my notes\n"
