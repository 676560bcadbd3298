"""The command `throughput`: how much of the machine a pre-training step uses, and whether images come fast enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli.flags import command_of
from harness.cli.options import AsJson, set_threads
from harness.cli.train import Threads
from harness.train.request import PretrainRequest


def _throughput(
    request: PretrainRequest,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps that are timed.")] = 3,
    data: Annotated[
        Optional[list[str]], typer.Option("--data", help="Also time the loading of these, as pretrain's; repeatable.")
    ] = None,
    threads: Threads = None,
    show: Annotated[
        Optional[Path], typer.Option("--show", help="Print what an earlier --json said, and measure nothing.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Time pre-training steps on random weights and pixels, against their MACs at a matrix product's rate."""
    from harness.kit.progress import Progress
    from harness.report.throughput_text import read_throughput, render_throughput
    from harness.train.throughput import measure_throughput

    if show is not None:
        typer.echo(render_throughput(read_throughput(show)))
        return
    set_threads(threads)
    request = request.model_copy(update={"data": tuple(data or ())})
    report = measure_throughput(request, steps, progress=Progress(request.quiet))
    typer.echo(json.dumps(report, indent=1) if as_json else render_throughput(report))


FLAGS = (
    *("model", "method", "ratio", "schedule", "settings", "recipe", "root", "workers", "precision", "recompute"),
    *("batch_size", "objective", "objective_settings", "seed", "device", "quiet"),
)
# Nothing is written: the folder is any.
throughput = command_of(PretrainRequest, _throughput, defaults={"model": "albef-base", "out": Path()}, only=FLAGS)
