"""What commands share: options, how their words become a request, threads, and the refusal of what is not built."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn, Optional

import typer

from harness import __version__
from harness.kit.errors import HarnessError
from harness.kit.settings import check_count

# Of an image's side: beyond it a table of positions alone fills a machine.
MOST_PIXELS = 8192
Model = Annotated[str, typer.Option("--model", help="Host model (see: list models).")]
ScheduleSpec = Annotated[
    Optional[str],
    typer.Option("--schedule", help="'paper', 'begin=2,4,10 keep=.9,.65,.4 [lookahead=2,6,2]', or a YAML/JSON file."),
]
Match = Annotated[
    str,
    typer.Option("--match", help="What --ratio sets: tokens, macs (forward, with overhead) or train-macs (a step's)."),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, float64 or bfloat16.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images or pairs per forward pass.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Out = Annotated[Path, typer.Option("--out", help="Folder of the records.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Settings = Annotated[
    Optional[list[str]],
    typer.Option("--set", help="A field of the method's config, as keep_rate=0.7; repeatable."),
]
ImageSize = Annotated[Optional[int], typer.Option("--image-size", min=1, max=MOST_PIXELS, help="Image side in pixels.")]
Threads = Annotated[Optional[int], typer.Option("--threads", min=1, help="CPU threads; left out: all.")]
ExecutorName = Annotated[str, typer.Option("--executor", help="Where cells run: here.")]
Latency = Annotated[bool, typer.Option("--latency/--no-latency", help="Time the tower, beside dense.")]
Force = Annotated[bool, typer.Option("--force", help="Compute again what is already there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Runs = Annotated[
    Optional[Path],
    typer.Option("--runs", help="Folder of the records, by default runs; with --study of the studies, runs/studies."),
]
StudyName = Annotated[Optional[str], typer.Option("--study", help="A study's records instead (see: list studies).")]
# What a user measures; results/ holds what is committed.
DEFAULT_RUNS = Path("runs")
STUDIES_FOLDER = DEFAULT_RUNS / "studies"
FIGURES_FOLDER = DEFAULT_RUNS / "figures"


def set_threads(threads: int | None) -> None:
    """Let torch use this many CPU threads; None: as many as it finds."""
    if threads is not None:
        check_count("--threads", threads)
        import torch

        torch.set_num_threads(threads)


def not_built(command: str) -> NoReturn:
    """Refuse a command of the contract that does not exist yet."""
    raise HarnessError(f"{command} is not built yet in version {__version__}")
