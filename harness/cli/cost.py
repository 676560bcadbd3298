"""The command `cost`: what one method costs in one tower."""

from __future__ import annotations

import json
from typing import Annotated, Optional

import typer

from harness.cli.flags import parse_settings
from harness.cli.options import (
    AsJson,
    BatchSize,
    Device,
    ImageSize,
    Match,
    Quiet,
    ScheduleSpec,
    Settings,
    Threads,
    set_threads,
)


def cost(
    model: Annotated[str, typer.Option("--model", help="A host model, or any timm ViT by its timm name.")],
    method: Annotated[str, typer.Option("--method", help="One method.")],
    ratio: Annotated[
        Optional[str], typer.Option("--ratio", help="Token ratio; left out: the method's paper setting.")
    ] = None,
    schedule: ScheduleSpec = None,
    match: Match = "tokens",
    settings: Settings = None,
    image_size: ImageSize = None,
    batch_size: BatchSize = 1,
    latency: Annotated[bool, typer.Option("--latency", help="Time it, interleaved with dense.")] = False,
    attention: Annotated[str, typer.Option("--attention", help="fused or math.")] = "fused",
    gib: Annotated[
        Optional[float],
        typer.Option("--gib", min=0, help="Also the largest training batch for a card of this many GiB."),
    ] = None,
    check: Annotated[
        Optional[str], typer.Option("--check", help="Also another program's count of the forward MACs: fvcore.")
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """FLOPs, memory and latency of one method in one vision tower. Needs no weights."""
    from harness.kit.progress import Progress
    from harness.report.cost_text import render_cost
    from harness.run.plan import cost_of

    set_threads(threads)
    report = cost_of(
        model,
        method,
        ratio=ratio,
        schedule=schedule,
        match=match,
        settings=parse_settings(settings),
        image_size=image_size,
        batch_size=batch_size,
        latency=latency,
        attention=attention,
        gib=gib,
        check=check,
        device=device,
        progress=Progress(quiet),
    )
    typer.echo(json.dumps(report, indent=1) if as_json else render_cost(report))
