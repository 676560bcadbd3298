"""The commands that measure: `run`, `evaluate`, `plan` (what `run` would do) and `ablate` (a study's whole grid)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from pydantic import BaseModel

from harness.cli.flags import command_of
from harness.cli.options import (
    DEFAULT_RUNS,
    STUDIES_FOLDER,
    AsJson,
    ExecutorName,
    Force,
    Latency,
    Out,
    Quiet,
    Threads,
    set_threads,
)
from harness.kit.shown import on_one_line
from harness.run.executors import Executor, named_executor
from harness.run.request import ANSWERS_HELP, EvaluateOptions, RunOptions, overrides

if TYPE_CHECKING:
    from harness.kit.progress import Progress
    from harness.run.cell import Cell
    from harness.run.store import Record, Store


def _run(
    options: RunOptions,
    out: Out = DEFAULT_RUNS,
    as_json: AsJson = False,
    executor: ExecutorName = "here",
    threads: Threads = None,
    latency: Latency = True,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure methods beside dense: quality, MACs, memory and latency, one record per cell. Finished cells are kept."""
    place = named_executor(executor)
    set_threads(threads)

    def planned(store: Store, progress: Progress) -> list[Cell]:
        from harness.data.formats import read_once
        from harness.run.grid import plan_cells
        from harness.run.plan import announced

        with read_once():
            found = [(request, plan_cells(request, progress)) for request in options.requests()]
            progress.say(announced(found, store, force=force, latency=latency))
        return [cell for _, cells in found for cell in cells]

    with processes(options.device) as first:
        records = _records(
            planned, out, options.weights, place, tokenizer=options.tokenizer, latency=latency, force=force, quiet=quiet
        )
    if first:
        from harness.report.frame import to_frame
        from harness.report.tables import render_summary, render_table

        if as_json:
            typer.echo(json.dumps(records, indent=1))
        else:
            frame = to_frame(records)
            typer.echo(f"{render_summary(frame)}\n\n{render_table(frame)}")
        _finish(records)


def _evaluate(
    options: EvaluateOptions,
    out: Out = DEFAULT_RUNS,
    as_json: AsJson = False,
    executor: ExecutorName = "here",
    threads: Threads = None,
    latency: Latency = True,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure one set of weights on its tasks: `run` with all tokens, unless methods are named."""
    _run(options, out, as_json, executor, threads, latency, force, quiet)


def _plan(
    options: RunOptions,
    out: Out = DEFAULT_RUNS,
    as_json: AsJson = False,
    threads: Threads = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """What `run` would do: its cells, tokens per block, MACs and memory, and which are done. Loads no weights."""
    set_threads(threads)
    from harness.data.formats import read_once

    with read_once():
        wanted = options.requests()
        from harness.kit.progress import Progress
        from harness.run.costs import CountedCosts
        from harness.run.plan import plan_rows, render_plan

        bar, counted = Progress(quiet), CountedCosts()
        rows = [row for one in wanted for row in plan_rows(one, out, force=force, progress=bar, counted=counted)]
    typer.echo(json.dumps(rows, indent=1) if as_json else render_plan(rows))


def _ablate(
    options: BaseModel,
    named: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study (see: list studies), or a YAML file of your own.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder that holds a folder per study.")] = STUDIES_FOLDER,
    answers: Annotated[Optional[Path], typer.Option("--answers", help=f"{ANSWERS_HELP}.")] = None,
    executor: ExecutorName = "here",
    threads: Threads = None,
    latency: Latency = True,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Run a study's whole grid; finished cells are kept."""
    place = named_executor(executor)
    set_threads(threads)
    from harness.cli.outputs import table_text
    from harness.data.formats import read_once
    from harness.run.plan import announced
    from harness.run.study import plan_study, read_study, study_name
    from harness.run.study_index import save_index

    study, found, changed = study_name(named), read_study(named), options.model_dump(exclude_none=True)
    every = found.run | changed

    def planned(store: Store, progress: Progress) -> list[Cell]:
        with read_once():
            cells, index, asked = plan_study(found, changed, progress, answers)
            progress.say(announced(asked, store, force=force, latency=latency))
        save_index(store.folder, study, found.draw, [cell.key for cell in cells if cell.method == "dense"], index)
        return cells

    with processes(str(every.get("device", "auto"))) as first:
        words = every.get("tokenizer")
        records = _records(
            planned,
            out / study,
            every.get("weights"),
            place,
            tokenizer=words,
            latency=latency,
            force=force,
            quiet=quiet,
        )
    if first:
        typer.echo(table_text(out / study, study, "text"))
        _finish(records)


@contextmanager
def processes(device: str) -> Iterator[bool]:
    """Work with the other processes where there are some; whether this is the first, which alone prints."""
    from harness.hosts.ready import pick_device
    from harness.kit.distributed import end_processes, is_main_process, start_processes

    start_processes(pick_device(device))
    try:
        yield is_main_process()
    finally:
        end_processes()


def _records(
    plan: Callable[[Store, Progress], list[Cell]],
    out: Path,
    weights: Path | None,
    place: Executor,
    *,
    tokenizer: str | None,
    latency: bool,
    force: bool,
    quiet: bool,
) -> list[Record]:
    """The records, beside dense, of the cells that the first process plans for a folder; those not there run now."""
    from harness.kit.distributed import is_main_process, on_main_process
    from harness.kit.progress import Progress
    from harness.run.compare import with_deltas
    from harness.run.measure import Measurer
    from harness.run.store import Store

    store, progress = Store(out), Progress(quiet or not is_main_process())

    def prepared() -> list[Cell]:
        store.prepare()
        return plan(store, progress)

    cells = on_main_process(prepared)
    measurer = Measurer(weights, progress, tokenizer, latency=latency)
    order = {cell.key: number for number, cell in enumerate(cells)}
    records = sorted(place.run(cells, store, measurer, force=force), key=lambda record: order[record["key"]])
    return with_deltas(records, store, progress=progress)


def _finish(records: list[dict[str, Any]]) -> None:
    """List failed cells on stderr and leave with status 1 if there are any."""
    failed = [record for record in records if record["status"] != "done"]
    for record in failed:
        spec = record["spec"]
        budget = "paper" if spec["ratio"] is None else f"{spec['ratio']:g}"
        cell = f"{spec['model']} {spec['method']} {budget} {spec['task']}"
        typer.echo(on_one_line(f"{record['status']}: {cell}: {record['error']}"), err=True)
    if failed:
        raise typer.Exit(1)


run = command_of(RunOptions, _run)
evaluate = command_of(EvaluateOptions, _evaluate)
plan = command_of(RunOptions, _plan)
ablate = command_of(overrides(("data", "device", "batch_size", "limit", "seeds", "weights", "tokenizer")), _ablate)
