"""The command line: parse, call, print. Nothing heavy is imported before a command runs.

Machine-readable output goes to stdout, the rest to stderr. Exit status 2 for bad input, 1 for a failed check or
cell, 130 after Ctrl-C.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from harness import __version__
from harness.cli_check import checks
from harness.cli_options import (
    DEFAULT_RUNS,
    STUDIES_FOLDER,
    AsJson,
    BatchSize,
    Data,
    Device,
    Dtype,
    Force,
    ImageSize,
    Limit,
    Match,
    Method,
    Model,
    Out,
    Protocol,
    Quiet,
    Ratios,
    Runs,
    ScheduleSpec,
    Seed,
    Settings,
    StudyName,
    Tasks,
    TaskSettings,
    Weights,
    Workers,
    parse_settings,
    request,
)  # fmt: skip
from harness.errors import HarnessError
from harness.registry import KINDS

app = typer.Typer(
    name="harness",
    help="Measure what a token-reduction method costs in a vision-language model, and what it keeps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(checks, name="check")


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(f"vlm-token-harness {__version__}")
        raise typer.Exit


def _threads(workers: int | None) -> None:
    if workers is not None:
        import torch

        torch.set_num_threads(workers)


def _finish(records: list[dict[str, Any]]) -> None:
    """List failed cells on stderr and leave with status 1 if there are any."""
    failed = [record for record in records if record["status"] != "done"]
    for record in failed:
        spec = record["spec"]
        budget = "paper" if spec["ratio"] is None else f"{spec['ratio']:g}"
        typer.echo(f"{record['status']}: {spec['method']} {budget} {spec['task']}: {record['error']}", err=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def run(
    context: typer.Context,
    method: Method,
    ratios: Ratios = None,
    model: Model = "albef-tiny",
    task_names: Tasks = "all",
    data: Data = "scenes",
    protocol: Protocol = "inference",
    schedule: ScheduleSpec = None,
    match: Match = "tokens",
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = DEFAULT_RUNS,
    as_json: AsJson = False,
    weights: Weights = None,
    settings: Settings = None,
    set_task: TaskSettings = None,
    image_size: ImageSize = None,
    workers: Workers = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure methods beside dense: quality, MACs, memory and latency, one record per cell. Finished cells are kept."""
    wanted = request(context.params)
    from harness.progress import Progress
    from harness.render.frame import to_frame
    from harness.render.tables import render_table
    from harness.runner import Bench, plan_cells, run_cells
    from harness.store import Store

    _threads(workers)
    store = Store(out)
    store.prepare()
    records = run_cells(plan_cells(wanted), store, Bench(weights, Progress(quiet)), force=force)
    typer.echo(json.dumps(records, indent=1) if as_json else render_table(to_frame(records), "text").rstrip("\n"))
    _finish(records)


@app.command()
def plan(
    context: typer.Context,
    method: Method,
    ratios: Ratios = None,
    model: Model = "albef-tiny",
    task_names: Tasks = "all",
    data: Data = "scenes",
    protocol: Protocol = "inference",
    schedule: ScheduleSpec = None,
    match: Match = "tokens",
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    limit: Limit = None,
    seed: Seed = 0,
    out: Out = DEFAULT_RUNS,
    as_json: AsJson = False,
    weights: Weights = None,
    settings: Settings = None,
    set_task: TaskSettings = None,
    image_size: ImageSize = None,
    workers: Workers = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """What `run` would do: its cells, tokens per block, MACs and memory, and which are done. Loads no weights."""
    wanted = request(context.params)
    from harness.planning import plan_rows, render_plan

    _threads(workers)
    rows = plan_rows(wanted, out, force=force)
    typer.echo(json.dumps(rows, indent=1) if as_json else render_plan(rows))


@app.command("list")
def list_names(
    kind: Annotated[Optional[str], typer.Argument(help="methods, models, tasks or studies; left out: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Names that exist, each with one line about it."""
    if kind is not None and kind not in KINDS:
        from harness.registry import unknown

        raise unknown("kind", kind, KINDS)
    chosen = {kind: KINDS[kind]} if kind else KINDS
    found = {
        name: {entry.name: entry.summary for entry in registry.entries().values()} for name, registry in chosen.items()
    }
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for name, entries in found.items():
        typer.echo(name)
        for entry, summary in entries.items():
            typer.echo(f"  {entry:<16}{summary}")


@app.command()
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
    device: Device = "cpu",
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """FLOPs, memory and latency of one method in one vision tower. Needs no weights."""
    from harness.cost.text import render_cost
    from harness.planning import cost_of

    _threads(workers)
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
        device=device,
    )
    typer.echo(json.dumps(report, indent=1) if as_json else render_cost(report))


@app.command()
def table(
    runs: Runs = DEFAULT_RUNS,
    study: StudyName = None,
    format: Annotated[str, typer.Option("--format", help="text, csv, md or latex.")] = "text",
    out: Annotated[Optional[Path], typer.Option("--out", help="Write to this file instead of stdout.")] = None,
) -> None:
    """The records as a table: quality with intervals and differences to dense, beside the cost."""
    from harness.outputs import table_text

    text = table_text(runs, study, STUDIES_FOLDER, format)
    if out is None:
        typer.echo(text)
    else:
        from harness.files import write_atomically

        write_atomically(out, (text + "\n").encode())


@app.command()
def plot(
    runs: Runs = DEFAULT_RUNS,
    study: StudyName = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the figures.")] = Path("results/figures"),
    patches: Annotated[
        bool, typer.Option("--patches/--no-patches", help="Also draw which patches each method keeps.")
    ] = True,
    ratio: Annotated[float, typer.Option("--patches-ratio", help="Token ratio of the picture of kept patches.")] = 0.5,
) -> None:
    """Figures, SVG and PNG: quality against MACs and ratio, and which patches each method keeps for a few scenes."""
    from harness.outputs import draw

    for path in draw(runs, study, STUDIES_FOLDER, out, patches=patches and study is None, ratio=ratio):
        typer.echo(str(path))


@app.command()
def ablate(
    context: typer.Context,
    study: Annotated[str, typer.Argument(help="A study (see: list studies).")],
    out: Annotated[Path, typer.Option("--out", help="Folder that holds a folder per study.")] = STUDIES_FOLDER,
    data: Annotated[Optional[str], typer.Option("--data", help="Instead of the study's data.")] = None,
    device: Annotated[Optional[str], typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = None,
    batch_size: Annotated[Optional[int], typer.Option("--batch-size", min=1, help="Images per forward pass.")] = None,
    limit: Limit = None,
    seed: Annotated[Optional[int], typer.Option("--seed", help="Seed of everything random.")] = None,
    weights: Weights = None,
    workers: Workers = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Run a study's whole grid; finished cells are kept."""
    from harness.outputs import table_text
    from harness.progress import Progress
    from harness.runner import Bench, run_cells
    from harness.store import Store
    from harness.study import plan_study, read_study, save_index

    _threads(workers)
    planned = read_study(study)
    store = Store(out / study)
    store.prepare()
    given = {name: context.params[name] for name in ("data", "device", "batch_size", "limit", "seed", "weights")}
    cells, index = plan_study(planned, {name: value for name, value in given.items() if value is not None})
    save_index(store.folder, study, planned, cells, index)
    records = run_cells(cells, store, Bench(weights, Progress(quiet)), force=force)
    typer.echo(table_text(DEFAULT_RUNS, study, out, "text"))
    _finish(records)


@app.command()
def pretrain(
    model: Model = "albef-tiny",
    data: Data = "scenes",
    out: Annotated[Path, typer.Option("--out", help="Folder of the weights, log and checkpoints.")] = Path(
        "results/pretrain"
    ),
    seed: Seed = 0,
    steps: Annotated[
        Optional[int],
        typer.Option("--steps", min=1, help="Steps of the joint stage; left out: the recipe's."),
    ] = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Train a host model on the built-in world, by the recipe that made the shipped weights."""
    from harness.train.pretrain import pretrain as train

    typer.echo(json.dumps(train(model, data, out, seed=seed, steps=steps, threads=workers, quiet=quiet)))


@app.command("new-method")
def new_method(
    name: Annotated[str, typer.Argument(help="Lower-case name; the file will be baselines/NAME.py.")],
    folder: Annotated[
        Optional[Path],
        typer.Option("--folder", help="Where to write it; left out: the baselines folder in use."),
    ] = None,
) -> None:
    """Write a working method to start from."""
    from harness.check.template import write_template

    path = write_template(name, folder)
    typer.echo(f"wrote {path}; check it with: python -m harness check method {name}", err=True)


def _not_built(command: str) -> None:
    raise HarnessError(f"{command} is not built yet in version {__version__}")


@app.command()
def finetune() -> None:
    """Fine-tune a host on a task (not built yet)."""
    _not_built("finetune")


@app.command()
def evaluate() -> None:
    """Evaluate a fine-tuned host (not built yet: `run` evaluates the shipped one)."""
    _not_built("evaluate")


@app.command()
def report() -> None:
    """The HTML report (not built yet)."""
    _not_built("report")


INTERRUPTED = 130
# typer carries click inside in its later releases: take the base class that it really raises.
CLICK_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every expected failure is one line on stderr and an exit status."""
    command = typer.main.get_command(app)
    try:
        status = command.main(args=arguments, prog_name="python -m harness", standalone_mode=False)
    except HarnessError as error:
        typer.echo(f"error: {error}", err=True)
        status = 2
    except CLICK_ERROR as error:
        typer.echo(f"error: {error.format_message()}", err=True)
        status = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    if status == INTERRUPTED:  # later releases of typer return it instead of raising
        typer.echo("stopped; records so far are kept", err=True)
    sys.exit(status if isinstance(status, int) else 0)
