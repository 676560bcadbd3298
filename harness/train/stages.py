"""The training that measurements rest on: each stage is run once, and found again by its key."""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, FileLock, Timeout

from harness.hosts.weights.find import WEIGHTS_FILE
from harness.kit.distributed import on_main_process, run_together
from harness.kit.errors import HarnessError, warn_on_stderr
from harness.kit.files import explained
from harness.train.checkpoint import CHECKPOINTS
from harness.train.curve import curve_of
from harness.train.finetune import finetune
from harness.train.pretrain import pretrain
from harness.train.protocol import Stage, stage_key, stage_name
from harness.train.request import FinetuneRequest, PretrainRequest, TrainSpec
from harness.train.session import DONE_FILE

# Fields of a Stage that its request has by the same name, beside those of both specs.
SAME_NAMES = ("model", "method", "config", "recipe", "seed")


def trained(
    stages: Sequence[Stage], folder: Path, *, device: str = "auto", quiet: bool = False
) -> tuple[Path, list[dict[str, Any]]]:
    """Run each stage in its own folder below `folder`, from the weights of the one before.

    A finished stage is found by its name (`stage_name`) and not run again, an interrupted one
    goes on from its last checkpoint; one that another command is at is waited for. Checkpoints are removed once their
    stage is finished. Returns the folder of the last stage's weights, and of each stage: stage, folder, steps, seconds,
    samples_per_second, pairs, train_gmacs (None where it is not counted), peak_mib, weights_sha256, curve (`curve_of`).
    Raises HarnessError for anything a stage cannot go on with; of several processes, one that fails in the middle of
    training ends.
    """
    out, records = folder, []
    for number, stage in enumerate(stages):
        chain = stages[: number + 1]
        start = str(out) if number else stage.files.get("init")
        out = folder.resolve() / stage_name(chain)
        if not on_main_process(partial(_is_tidy, out)):
            with _alone(out):
                if not on_main_process(partial(_is_finished, out)):
                    _train(stage, out, start, stage_key(chain), device, quiet)
                on_main_process(partial(_tidy, out))
        records.append(run_together(partial(_stage_record, stage, out)))
    return out, records


def _is_finished(out: Path) -> bool:
    return (out / DONE_FILE).is_file()


def _is_tidy(out: Path) -> bool:
    return _is_finished(out) and not (out / CHECKPOINTS).exists()


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """A block in which no other command trains the stage of a folder; the system frees it when a command is killed."""
    lock = FileLock(out.with_name(f".{out.name}.lock"))
    on_main_process(partial(_take, lock, out))
    try:
        yield
    finally:
        lock.release()


def _take(lock: BaseFileLock, out: Path) -> None:
    with explained(f"{out}: cannot be trained in", "make the folder above it writable, or set HARNESS_CACHE"):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            warn_on_stderr(f"{out}: another command trains it; waiting for that one, to take its weights")
            lock.acquire(poll_interval=1)


def _train(stage: Stage, out: Path, start: str | None, key: str, device: str, quiet: bool) -> None:
    shared: dict[str, Any] = {
        **{name: getattr(stage, name) for name in (*TrainSpec.model_fields, *SAME_NAMES)},
        "tokenizer": stage.files.get("tokenizer"),
        "init": start,
        "out": out,
        "stage": key,
        "device": device,
        "quiet": quiet,
    }
    if stage.stage == "pretrain":
        shared |= {name: getattr(stage, name) for name in ("objective", "objective_settings", "vocabulary")}
        shared |= {name: stage.files.get(name) for name in ("init_vision", "init_text")}
        pretrain(PretrainRequest.model_validate(shared))
    else:
        shared |= {"task": stage.task, "answers": stage.files.get("answers")}
        finetune(FinetuneRequest.model_validate(shared))
    gc.collect()  # The run's modules refer to each other: without this their memory stays taken for a while.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _tidy(out: Path) -> None:
    """Remove what only an interrupted run needs; with its momentum and optimizer it is many times the weights."""
    checkpoints = out / CHECKPOINTS
    if checkpoints.is_dir():
        with explained(f"{checkpoints}: cannot be removed", "make the folder writable"):
            shutil.rmtree(checkpoints)


def _stage_record(stage: Stage, out: Path) -> dict[str, Any]:
    """What a record says of a finished stage."""
    if not (out / WEIGHTS_FILE).is_file():
        raise HarnessError(f"{out}: finished, but its {WEIGHTS_FILE} is gone; delete the folder to train again")
    try:
        record = json.loads((out / DONE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise HarnessError(f"{out / DONE_FILE}: not a JSON file; delete the folder to train again") from error
    seconds, pairs = record["seconds"], record["pairs"]
    return {
        "stage": stage.stage,
        "folder": out.name,
        "steps": record["steps"],
        "seconds": seconds,
        "samples_per_second": round(pairs / seconds, 3) if seconds else None,
        **{name: record[name] for name in ("pairs", "train_gmacs", "peak_mib")},
        "weights_sha256": record["weights_sha256"],
        "curve": curve_of(out, record["steps"]),
    }
