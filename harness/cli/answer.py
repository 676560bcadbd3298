"""The command `answer`: answers for the official server of VQA v2, which keeps the annotations of its test splits."""

from __future__ import annotations

import json
from errno import EISDIR
from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli.options import (
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
from harness.cli.run import processes

OneMethod = Annotated[str, typer.Option("--method", help="Token reduction in the vision tower.")]
OneRatio = Annotated[Optional[float], typer.Option("--ratio", help="Token ratio; left out: the paper's.")]


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
    from harness.data.world import BUILT_IN_WORLD
    from harness.kit.errors import HarnessError
    from harness.kit.files import write_atomically
    from harness.kit.parallel import by_first
    from harness.kit.progress import Progress
    from harness.kit.ranks import is_first
    from harness.run.answers import answering_cell, server_answers
    from harness.run.choose import chosen_hosts

    # Which hosts can answer: a set without annotations says nothing of it.
    hosts = chosen_hosts(model, "vqa", weights, BUILT_IN_WORLD)
    ratios = None if ratio is None else f"{ratio!r}"
    fixed = {"model": hosts[0][0], "task_names": "vqa", "protocol": "inference", "set_train": None}
    (request,) = requests({**context.params, **fixed, "seed": str(seed), "ratios": ratios})
    if len(hosts) > 1 or len(request.methods) > 1:
        raise HarnessError("answer: answers of one model under one method at a time; name one of each")
    with processes(device) as first:
        progress = Progress(quiet or not is_first())
        by_first(lambda: _check_place(out))
        cell = by_first(lambda: answering_cell(request, progress))
        found = server_answers(cell, weights, progress)
        if first:
            lines = ",\n".join(json.dumps(one) for one in found)
            write_atomically(out, f"[\n{lines}\n]\n".encode())
            budget = "" if method == "dense" or ratio is None else f" at ratio {ratio:g} ({match})"
            noun = "answer" if len(found) == 1 else "answers"
            typer.echo(f"{len(found):,} {noun} of {cell.model}, {cell.method}{budget}, in {out}", err=True)


def _check_place(out: Path) -> None:
    """HarnessError where the file cannot be written: better now than after the answers."""
    from harness.kit.files import ensure_writable, explained

    with explained(f"{out}: cannot be written", "choose another --out"):
        ensure_writable(out.parent)
        if out.is_dir():
            raise IsADirectoryError(EISDIR, "it is a folder")
