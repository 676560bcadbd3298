"""Facts about the training log: an interrupted run's later entries are dropped, and a line cut by a kill with them."""

from __future__ import annotations

import json
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from harness.kit.errors import HarnessError
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


def test_tensorboard_reads_what_was_logged_and_forgets_what_was_dropped(tmp_path: Path) -> None:
    write(tmp_path, 0, range(1, 6))
    write(tmp_path, 3, range(4, 8))
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == {"loss/contrast", "learning_rate", "images_per_s"}
    losses = board.Scalars("loss/contrast")
    assert [(event.step, event.value) for event in losses] == [(step, 1.0) for step in range(1, 8)]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full for files beyond `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_one_error_and_nothing_on_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    threads = threading.active_count()
    log = TrainLog(tmp_path, 100, quiet=True)
    log.open(0)
    for step in range(1, 8):
        log.losses(step, 0, {"contrast": 1.0}, 0.1, 8)
    (events,) = (tmp_path / "tensorboard").iterdir()
    # A log of one line is shorter than the events of seven steps: these meet the limit.
    (tmp_path / LOG_FILE).unlink()
    message = r"tensorboard: cannot be written: File too large; free space and start the same command again"
    with files_of_at_most(events.stat().st_size):
        with pytest.raises(HarnessError, match=message):
            log.losses(8, 0, {"contrast": 1.0}, 0.1, 8)
        with pytest.raises(HarnessError, match=message):
            log.close()
    assert logged(tmp_path) == [8]
    assert threading.active_count() == threads
    assert capfd.readouterr().err == ""


def test_a_disk_that_is_full_from_the_beginning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with files_of_at_most(10), pytest.raises(HarnessError, match="tensorboard: cannot be written"):
        TrainLog(tmp_path, 10, quiet=True).open(0)
    assert capfd.readouterr().err == ""
