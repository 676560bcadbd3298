"""The commands that measure: `run`, `evaluate`, `plan` (what `run` would do) and `ablate` (a study's whole grid)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from harness.cli.options import (
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
    Models,
    Out,
    Protocol,
    Quiet,
    Ratios,
    ScheduleSpec,
    Seeds,
    Settings,
    Split,
    Tasks,
    TaskSettings,
    TrainSettings,
    Weights,
    Workers,
    parse_seeds,
    requests,
    set_threads,
)

if TYPE_CHECKING:
    from harness.kit.progress import Progress
    from harness.run.cell import Cell
    from harness.run.store import Store


def run(
    context: typer.Context,
    method: Method,
    ratios: Ratios = None,
    model: Models = None,
    task_names: Tasks = "all",
    data: Data = "scenes",
    split: Split = None,
    protocol: Protocol = "inference",
    schedule: ScheduleSpec = None,
    match: Match = "tokens",
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    limit: Limit = None,
    seed: Seeds = "0",
    out: Out = DEFAULT_RUNS,
    as_json: AsJson = False,
    weights: Weights = None,
    settings: Settings = None,
    set_task: TaskSettings = None,
    set_train: TrainSettings = None,
    image_size: ImageSize = None,
    workers: Workers = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure methods beside dense: quality, MACs, memory and latency, one record per cell. Finished cells are kept."""
    _run(context.params)


def plan(
    context: typer.Context,
    method: Method,
    ratios: Ratios = None,
    model: Models = None,
    task_names: Tasks = "all",
    data: Data = "scenes",
    split: Split = None,
    protocol: Protocol = "inference",
    schedule: ScheduleSpec = None,
    match: Match = "tokens",
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    limit: Limit = None,
    seed: Seeds = "0",
    out: Out = DEFAULT_RUNS,
    as_json: AsJson = False,
    weights: Weights = None,
    settings: Settings = None,
    set_task: TaskSettings = None,
    set_train: TrainSettings = None,
    image_size: ImageSize = None,
    workers: Workers = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """What `run` would do: its cells, tokens per block, MACs and memory, and which are done. Loads no weights."""
    set_threads(workers)
    wanted = requests(context.params)
    from harness.kit.progress import Progress
    from harness.run.plan import plan_rows, render_plan

    rows = [row for one in wanted for row in plan_rows(one, out, force=force, progress=Progress(quiet))]
    typer.echo(json.dumps(rows, indent=1) if as_json else render_plan(rows))


def evaluate(
    context: typer.Context,
    weights: Weights = None,
    model: Models = None,
    task_names: Tasks = "all",
    data: Data = "scenes",
    split: Split = None,
    method: Annotated[str, typer.Option("--method", help="Methods to measure too, comma-separated.")] = "dense",
    ratios: Ratios = None,
    protocol: Protocol = "inference",
    schedule: ScheduleSpec = None,
    match: Match = "tokens",
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    limit: Limit = None,
    seed: Seeds = "0",
    out: Out = DEFAULT_RUNS,
    as_json: AsJson = False,
    settings: Settings = None,
    set_task: TaskSettings = None,
    set_train: TrainSettings = None,
    image_size: ImageSize = None,
    workers: Workers = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure one set of weights on its tasks: `run` with all tokens, unless methods are named."""
    _run(context.params)


def ablate(
    context: typer.Context,
    study: Annotated[str, typer.Argument(help="A study (see: list studies).")],
    out: Annotated[Path, typer.Option("--out", help="Folder that holds a folder per study.")] = STUDIES_FOLDER,
    data: Annotated[Optional[str], typer.Option("--data", help="Instead of the study's data.")] = None,
    device: Annotated[Optional[str], typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = None,
    batch_size: Annotated[Optional[int], typer.Option("--batch-size", min=1, help="Images per forward pass.")] = None,
    limit: Limit = None,
    seed: Annotated[Optional[str], typer.Option("--seed", help="Seed of everything random, or several.")] = None,
    weights: Weights = None,
    workers: Workers = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Run a study's whole grid; finished cells are kept."""
    from harness.cli.outputs import table_text
    from harness.run.study import plan_study, read_study, save_index

    set_threads(workers)
    planned = read_study(study)
    given = {name: context.params[name] for name in ("data", "device", "batch_size", "limit", "weights")}
    given["seeds"] = None if seed is None else parse_seeds(seed)
    chosen = {name: value for name, value in given.items() if value is not None}
    every = planned.run | chosen

    def plan(store: Store, progress: Progress) -> list[Cell]:
        cells, index = plan_study(planned, chosen, progress)
        save_index(store.folder, study, planned, cells, index)
        return cells

    with processes(str(every.get("device", "auto"))) as first:
        records = _records(plan, out / study, every.get("weights"), force=force, quiet=quiet)
    if first:
        typer.echo(table_text(DEFAULT_RUNS, study, out, "text"))
        _finish(records)


def _run(options: Mapping[str, Any]) -> None:
    """Measure what the options of `run` or `evaluate` ask for, and print its table or records."""
    set_threads(options["workers"])
    from harness.report.frame import to_frame
    from harness.report.tables import render_table
    from harness.run.grid import plan_cells

    def plan(store: Store, progress: Progress) -> list[Cell]:
        return [cell for wanted in requests(options) for cell in plan_cells(wanted, progress)]

    with processes(options["device"]) as first:
        records = _records(plan, options["out"], options["weights"], force=options["force"], quiet=options["quiet"])
    if first:
        table = json.dumps(records, indent=1) if options["as_json"] else render_table(to_frame(records), "text")
        typer.echo(table.rstrip("\n"))
        _finish(records)


@contextmanager
def processes(device: str) -> Iterator[bool]:
    """Work with the other processes where there are some; whether this is the first, which alone prints."""
    from harness.hosts.ready import pick_device
    from harness.kit.ranks import end_processes, is_first, start_processes

    start_processes(pick_device(device))
    try:
        yield is_first()
    finally:
        end_processes()


def _records(
    plan: Callable[[Store, Progress], list[Cell]], out: Path, weights: Path | None, *, force: bool, quiet: bool
) -> list[dict[str, Any]]:
    """The records of the cells that the first process plans for a folder, those run now that are not there."""
    from harness.kit.parallel import by_first
    from harness.kit.progress import Progress
    from harness.kit.ranks import is_first
    from harness.run.measure import Bench
    from harness.run.runner import run_cells
    from harness.run.store import Store

    store, progress = Store(out), Progress(quiet or not is_first())

    def prepared() -> list[Cell]:
        store.prepare()
        return plan(store, progress)

    return run_cells(by_first(prepared), store, Bench(weights, progress), force=force)


def _finish(records: list[dict[str, Any]]) -> None:
    """List failed cells on stderr and leave with status 1 if there are any."""
    failed = [record for record in records if record["status"] != "done"]
    for record in failed:
        spec = record["spec"]
        budget = "paper" if spec["ratio"] is None else f"{spec['ratio']:g}"
        cell = f"{spec['model']} {spec['method']} {budget} {spec['task']}"
        typer.echo(f"{record['status']}: {cell}: {record['error']}", err=True)
    if failed:
        raise typer.Exit(1)
