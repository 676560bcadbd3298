"""Checkpoints of a training run: written whole or not at all, checked by digest, the last two kept.

checkpoints/step-00000123.pt holds the state; step-00000123.json, written after it, holds its sha256 and what it is of.
A state without its JSON was never finished: it is ignored, and removed by the next checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.kit.errors import HarnessError
from harness.kit.files import explained, write_atomically

KEPT = 2
CHECKPOINTS = "checkpoints"
_PREFIX = "step-"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint with a note: where its state lies, its sha256, and the facts that a run must agree with.

    A note that cannot be read leaves the sha256 empty: the checkpoint is damaged.
    """

    state: Path
    sha256: str
    step: int
    facts: dict[str, Any]

    def whole(self) -> bool:
        """Whether the state is what was written."""
        return self.state.is_file() and _sha256(self.state) == self.sha256


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], facts: dict[str, Any]) -> Path:
    """Write the state of a step, then its note, then remove all but the KEPT last ones up to this step.

    Raises HarnessError where it cannot be written; earlier checkpoints stand then.
    """
    path = folder / f"{_PREFIX}{step:08d}.pt"
    unfinished = path.with_suffix(".part")
    with explained(
        f"{path}: cannot be written", "free space and start the same command again; earlier checkpoints stand"
    ):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            digest = _sha256(unfinished)
            unfinished.replace(path)
        except RuntimeError as error:  # torch's writer reports a full disk so
            raise OSError(str(error).splitlines()[0]) from error
        finally:
            unfinished.unlink(missing_ok=True)
    note = {"sha256": digest, "step": step, **facts}
    write_atomically(path.with_suffix(".json"), (json.dumps(note, indent=2) + "\n").encode())
    _clean(folder, step)
    return path


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Checkpoints that have their note, newest first."""
    notes = sorted(folder.glob(f"{_PREFIX}*.json"), reverse=True)
    return [_noted(note) for note in notes if note.stem.removeprefix(_PREFIX).isdecimal()]


def difference(held: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first of the `wanted` facts that differs in the `held` ones, as "seed 0, not 1"; None where none does."""
    for name, value in wanted.items():
        if held.get(name) != value:
            return f"{name} {held.get(name)}, not {value}"
    return None


def load_newest(folder: Path, facts: dict[str, Any], warn: Callable[[str], None]) -> tuple[int, dict[str, Any]] | None:
    """Step and state of the newest whole checkpoint, or None where there is none.

    A damaged one is reported through `warn` and the one before it is taken. Raises HarnessError when all are damaged
    and when the checkpoint is of another run (`facts` name what must be the same).
    """
    checkpoints = list_checkpoints(folder)
    for checkpoint in checkpoints:
        different = difference(checkpoint.facts, facts) if checkpoint.sha256 else None
        if different:
            raise HarnessError(
                f"{checkpoint.state}: of a run with {different}; start the run as it was, or name another --out"
            )
        if not checkpoint.whole():
            warn(f"{checkpoint.state} is damaged (its digest differs); going back to the one before it")
            continue
        try:
            state: dict[str, Any] = torch.load(checkpoint.state, map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            warn(f"{checkpoint.state} cannot be read ({str(error)[:80]!r}); going back to the one before it")
            continue
        return checkpoint.step, state
    if checkpoints:
        raise HarnessError(
            f"{folder}: all {len(checkpoints)} checkpoints are damaged; delete the folder to start afresh"
        )
    return None


def _noted(note: Path) -> Checkpoint:
    state, step = note.with_suffix(".pt"), int(note.stem.removeprefix(_PREFIX))
    try:
        facts = json.loads(note.read_text(encoding="utf-8"))
        return Checkpoint(state, facts.pop("sha256"), step, facts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Checkpoint(state, "", step, {})


def _clean(folder: Path, step: int) -> None:
    """Remove old checkpoints, those after `step`, which a run went back from, and what killed runs left unfinished."""
    past = [checkpoint.state.stem for checkpoint in list_checkpoints(folder) if checkpoint.step <= step]
    # A state without its note is ignored, so the note goes first: ".json" sorts before ".part" and ".pt".
    for path in sorted([*folder.glob(f"{_PREFIX}*"), *folder.glob(f".{_PREFIX}*.tmp")]):
        if path.suffix not in {".json", ".pt"} or path.stem not in past[:KEPT]:
            path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
