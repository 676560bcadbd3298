"""The command `answer`: answers for the official server of VQA v2, which keeps the annotations of its test splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from harness.cli_options import (
    BatchSize,
    Device,
    Dtype,
    ImageSize,
    Limit,
    Match,
    Models,
    Quiet,
    ScheduleSpec,
    Seed,
    Settings,
    Split,
    TaskSettings,
    Weights,
    Workers,
    requests,
    set_threads,
)
from harness.cli_run import processes
from harness.cli_train import OneMethod, OneRatio


def answer(
    context: typer.Context,
    data: Annotated[str, typer.Option("--data", help="Questions: a file, or a folder with one such file.")],
    out: Annotated[Path, typer.Option("--out", help="The JSON file to write.")],
    weights: Weights = None,
    model: Models = None,
    split: Split = None,
    method: OneMethod = "dense",
    ratio: OneRatio = None,
    schedule: ScheduleSpec = None,
    match: Match = "tokens",
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    limit: Limit = None,
    seed: Seed = 0,
    settings: Settings = None,
    set_task: TaskSettings = None,
    image_size: ImageSize = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Answer questions without annotations, as [{"question_id", "answer"}] for the official server of VQA v2."""
    set_threads(workers)
    from harness.answers import server_answers
    from harness.errors import HarnessError
    from harness.files import ensure_writable, explained, write_atomically
    from harness.progress import Progress
    from harness.ranks import is_first

    fixed = {"task_names": "vqa", "protocol": "inference", "set_train": None, "seed": str(seed)}
    budget = {"ratios": None if ratio is None else f"{ratio!r}"}
    wanted = requests({**context.params, **fixed, **budget})
    if len(wanted) != 1 or len(wanted[0].methods) != 1:
        raise HarnessError("answer: answers of one model under one method at a time; name one of each")
    with processes(device) as first:
        with explained(f"{out}: cannot be written", "choose another --out"):
            ensure_writable(out.parent)
            if out.is_dir():
                raise IsADirectoryError(21, "it is a folder")
        found = server_answers(wanted[0], Progress(quiet or not is_first()))
        if first:
            lines = ",\n".join(json.dumps(one) for one in found)
            write_atomically(out, f"[\n{lines}\n]\n".encode())
            typer.echo(f"{len(found):,} answers in {out}", err=True)
