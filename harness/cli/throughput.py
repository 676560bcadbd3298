"""The command `throughput`: how much of the machine a pre-training step uses, and whether images come fast enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli.flags import parse_settings
from harness.cli.options import AsJson, Device, Model, Quiet, ScheduleSpec, Seed, Settings, set_threads
from harness.cli.train import (
    Loaders,
    OneMethod,
    OneRatio,
    PairsPerStep,
    Precision,
    RecipeNumbers,
    Recompute,
    Root,
    Threads,
)


def throughput(
    model: Model = "albef-base",
    method: OneMethod = "dense",
    ratio: OneRatio = None,
    schedule: ScheduleSpec = None,
    settings: Settings = None,
    batch_size: PairsPerStep = None,
    recipe: RecipeNumbers = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps that are timed.")] = 3,
    data: Annotated[
        Optional[list[str]], typer.Option("--data", help="Also time the loading of these, as pretrain's; repeatable.")
    ] = None,
    root: Root = None,
    workers: Loaders = 0,
    precision: Precision = "no",
    recompute: Recompute = False,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    show: Annotated[
        Optional[Path], typer.Option("--show", help="Print what an earlier --json said, and measure nothing.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Time pre-training steps on random weights and pixels, against their MACs at a matrix product's rate."""
    from harness.kit.progress import Progress
    from harness.report.throughput_text import read_throughput, render_throughput
    from harness.train.request import PretrainRequest
    from harness.train.throughput import measure_throughput

    if show is not None:
        typer.echo(render_throughput(read_throughput(show)))
        return
    set_threads(threads)
    request = PretrainRequest(
        model=model,
        data=tuple(data or ()),
        out=Path(),  # nothing is written
        root=root,
        method=method,
        ratio=ratio,
        schedule=schedule,
        settings=parse_settings(settings),
        recipe=parse_settings(recipe, "--recipe") | ({} if batch_size is None else {"batch_size": batch_size}),
        seed=seed,
        device=device,
        precision=precision,
        recompute=recompute,
        workers=workers,
        quiet=quiet,
    )
    report = measure_throughput(request, steps, progress=Progress(quiet))
    typer.echo(json.dumps(report, indent=1) if as_json else render_throughput(report))
