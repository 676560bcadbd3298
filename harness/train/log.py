"""What a training run says: JSON lines, TensorBoard, a bar with losses, images/s, memory and time left, or plain lines.

Losses leave the device only here.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from harness.kit.errors import HarnessError
from harness.kit.files import explained, write_atomically

LOG_FILE = "log.jsonl"


class EventFile:
    """Scalars for TensorBoard, written as they are given; OSError where the disk is full.

    Its own EventFileWriter writes from a thread, whose failure is a traceback on stderr beside the error's one line.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        # TensorBoard forgets what earlier files hold from this step on.
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))
        self._records.flush()

    def add(self, step: int, scalars: dict[str, float]) -> None:
        """Write scalars by name and flush them."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(step=step, summary=self._summary(value=values))
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **fields: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())


class TrainLog:
    """The log of one run; on ranks other than 0 every call does nothing."""

    def __init__(self, folder: Path, total_steps: int, *, quiet: bool = False, active: bool = True) -> None:
        self.folder, self.total, self.active = folder, total_steps, active
        self.shown = active and not quiet
        self._bar: Any = None
        self._board: EventFile | None = None
        self._since = (time.perf_counter(), 0)

    def open(self, step: int) -> None:
        """Begin or go on at a step: later entries of an interrupted run are dropped."""
        self._since = (time.perf_counter(), step)
        if not self.active:
            return
        with explained(f"{self.folder}: cannot be written", "choose another --out"):
            self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / LOG_FILE
        if path.is_file():
            # A kill or a full disk may have cut the last line.
            lines = path.read_text(encoding="utf-8").split("\n")[:-1]
            kept = [line for line in lines if _step(line, path) <= step]
            write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
        with self._explained("tensorboard"):
            self._board = EventFile(self.folder / "tensorboard", step + 1)
        if self.shown and sys.stderr.isatty():
            self._open_bar(step)

    def losses(self, step: int, epoch: int, values: dict[str, float], rate: float, images: int) -> None:
        """Log the mean losses since the last entry; `images` per optimizer step over all processes."""
        now = time.perf_counter()
        per_s = (step - self._since[1]) * images / max(now - self._since[0], 1e-9)
        self._since = (now, step)
        if not self.active:
            return
        memory = memory_mib()
        entry = {"step": step, "epoch": epoch, "learning_rate": rate, "images_per_s": round(per_s, 2)}
        self._write(entry | {"memory_mib": round(memory, 1), "losses": values})
        scalars = {f"loss/{name}": value for name, value in values.items()}
        if self._board is not None:
            with self._explained("tensorboard"):
                self._board.add(step, scalars | {"learning_rate": rate, "images_per_s": per_s})
        spoken = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        status = f"{spoken}  {per_s:.1f} images/s  {memory:.0f} MiB"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, status=status)
        elif self.shown:
            left = (self.total - step) * images / max(per_s, 1e-9) / 60
            print(f"step {step}/{self.total}  {status}  {left:.1f} min left", file=sys.stderr, flush=True)

    def event(self, step: int, **facts: Any) -> None:
        """Log something that is no loss."""
        if self.active:
            self._write({"step": step, **facts})

    def say(self, line: str) -> None:
        """One line for people, on stderr."""
        if self.shown:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Flush what is left."""
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            with self._explained("tensorboard"):
                self._board.close()

    def _write(self, entry: dict[str, Any]) -> None:
        with self._explained(LOG_FILE), (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _explained(self, name: str) -> AbstractContextManager[None]:
        return explained(f"{self.folder / name}: cannot be written", "free space and start the same command again")

    def _open_bar(self, step: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[status]}"))
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task("train", total=self.total, completed=step, status="")
        self._bar.start()


def memory_mib() -> float:
    """Peak memory so far in MiB: of the GPU's allocator where one is used, else of this process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _step(line: str, path: Path) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise HarnessError(f"{path}: not a training log ({line[:40]!r}); move it away") from error
