"""The command line: parse, call, print. Nothing heavy is imported before a command runs.

Machine-readable output goes to stdout, the rest to stderr. Exit status 2 for bad input, 1 for a failed check or
cell, 130 after Ctrl-C.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from harness import __version__
from harness.cli.answer import answer
from harness.cli.check import checks
from harness.cli.cost import cost
from harness.cli.options import AsJson
from harness.cli.results import plot, report, table
from harness.cli.run import ablate, evaluate, plan, run
from harness.cli.throughput import throughput
from harness.cli.train import finetune, pretrain
from harness.kit.errors import HarnessError
from harness.kit.registry import KINDS
from harness.kit.shown import on_one_line

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


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vlm-token-harness {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Only the option: it is eager, since a group without a command is refused before its callback runs."""


def list_names(
    kind: Annotated[Optional[str], typer.Argument(help=f"{', '.join(KINDS)}; left out: all.")] = None,
    hosts: Annotated[
        bool,
        typer.Option("--hosts", help="Of methods: in which hosts, tasks and protocols they make sense, and why not."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Names that exist, each with one line about it."""
    if hosts:
        _list_suitable(kind, as_json)
        return
    if kind is not None and kind not in KINDS:
        from harness.kit.registry import unknown

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
            typer.echo(on_one_line(f"  {entry:<24}{summary}"))


def _list_suitable(kind: str | None, as_json: bool) -> None:
    if kind != "methods":
        raise HarnessError(f"--hosts: is for methods, not {kind or 'all kinds'}; take: list methods --hosts")
    from dataclasses import asdict

    from harness.report.methods_and_hosts import pairs, render_suitable

    typer.echo(json.dumps([asdict(pair) for pair in pairs()], indent=1) if as_json else render_suitable())


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


# In the order that --help lists them.
COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "plan": plan,
    "list": list_names,
    "cost": cost,
    "throughput": throughput,
    "table": table,
    "plot": plot,
    "ablate": ablate,
    "pretrain": pretrain,
    "new-method": new_method,
    "finetune": finetune,
    "evaluate": evaluate,
    "answer": answer,
    "report": report,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


INTERRUPTED = 130
# Of a path that someone named: it cannot be looked at.
NO_PLACE = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)
LONGEST_PATH = 200
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# typer carries click inside in its later releases: take the base class that it really raises.
CLICK_ERROR: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; every expected failure is one line on stderr and an exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that are no UTF-8, and terminals that are not
    command = typer.main.get_command(app)
    try:
        _check_words(sys.argv[1:] if arguments is None else arguments)
        status = command.main(args=arguments, prog_name="python -m harness", standalone_mode=False)
    except HarnessError as error:
        typer.echo(f"error: {error}", err=True)
        status = 2
    except OSError as error:
        if error.filename and error.errno in NO_PLACE:
            line = f"{_shown_path(error.filename)}: {error.strerror}; name a path that can be read, or make it readable"
            typer.echo(f"error: {on_one_line(line)}", err=True)
            sys.exit(2)
        if error.errno not in NO_SPACE:
            raise
        _drop_output()
        place = error.filename or "output"
        line = f"error: {place}: cannot be written: {error.strerror}; free space or send it elsewhere"
        typer.echo(on_one_line(line), err=True)
        status = 2
    except (MemoryError, RuntimeError) as error:
        if not _ran_out_of_memory(error):
            raise
        typer.echo("error: out of memory; ask for smaller images, batches or models, or free some", err=True)
        status = 2
    except CLICK_ERROR as error:
        typer.echo(f"error: {on_one_line(error.format_message())}", err=True)
        status = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    if status == INTERRUPTED:  # later releases of typer return it instead of raising
        typer.echo("stopped; records so far are kept", err=True)
    sys.exit(status if isinstance(status, int) else 0)


def _check_words(arguments: list[str]) -> None:
    """HarnessError for an argument that is empty, as of a variable that is not set (a text may be), and for one that is
    not UTF-8, which no record or figure can hold; `check` may look at it.
    """
    for before, word in zip(["", *arguments], arguments):
        if not word and before != "--text":
            place = f"{before}: " if before.startswith("--") else ""
            raise HarnessError(
                f"{place}an empty argument, as of a variable that is not set; give a value or leave it out"
            )
    for word in arguments if arguments[:1] != ["check"] else ():
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise HarnessError(
                f"argument {word}: not UTF-8; rename the file or folder, or write it in UTF-8"
            ) from error


def _ran_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or re.search("out of memory|can't allocate memory", str(error)) is not None


def _shown_path(path: object) -> str:
    text = os.fsdecode(path) if isinstance(path, (str, bytes)) else str(path)
    return text if len(text) <= LONGEST_PATH else f"{text[:LONGEST_PATH]}…"


def _drop_output() -> None:
    """Send what stdout still holds nowhere: written again at exit, it would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
