"""The command `answer`: answers for the official server of VQA v2, which keeps the annotations of its test splits."""

from __future__ import annotations

import json
from errno import EISDIR
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.flags import command_of
from harness.cli.options import Quiet, Threads, set_threads
from harness.cli.run import processes
from harness.kit.errors import HarnessError
from harness.run.request import AnswerOptions


def _answer(
    options: AnswerOptions,
    out: Annotated[Path, typer.Option("--out", help="The JSON file to write.")],
    threads: Threads = None,
    quiet: Quiet = False,
) -> None:
    """Answer questions without annotations, as [{"question_id", "answer"}] for the official server of VQA v2."""
    set_threads(threads)
    request = options.request()
    from harness.kit.distributed import is_main_process, on_main_process
    from harness.kit.files import write_atomically
    from harness.kit.progress import Progress
    from harness.run.answers import answering_cell, server_answers

    with processes(request.device) as first:
        progress = Progress(quiet or not is_main_process())
        on_main_process(lambda: _check_place(out))
        cell = on_main_process(lambda: answering_cell(request, progress))
        found = server_answers(cell, request.weights, progress, request.tokenizer)
        if first:
            lines = ",\n".join(json.dumps(one) for one in found)
            write_atomically(out, f"[\n{lines}\n]\n".encode())
            ratio = None if cell.method == "dense" or request.ratios is None else request.ratios[0]
            budget = "" if ratio is None else f" at ratio {ratio:g} ({request.match})"
            noun = "answer" if len(found) == 1 else "answers"
            typer.echo(f"{len(found):,} {noun} of {cell.model}, {cell.method}{budget}, in {out}", err=True)


def _check_place(out: Path) -> None:
    """HarnessError where the file cannot be written, or is another than earlier answers, such as the questions
    themselves: better now than after the answers.
    """
    from harness.kit.files import ensure_writable, explained

    if out.is_file() and not _holds_answers(out):
        raise HarnessError(f"--out {out}: holds something else than answers; choose another file, or remove it")
    with explained(f"{out}: cannot be written", "choose another --out"):
        ensure_writable(out.parent)
        if out.is_dir():
            raise IsADirectoryError(EISDIR, "it is a folder")


def _holds_answers(path: Path) -> bool:
    """Whether a file is empty, or a list as this command writes it."""
    from harness.kit.reading import read_json

    try:
        held = read_json(path) if path.stat().st_size else []
    except HarnessError:
        return False
    return isinstance(held, list) and all(
        isinstance(one, dict) and set(one) == {"question_id", "answer"} for one in held
    )


answer = command_of(AnswerOptions, _answer)
