"""The commands that show records: `table`, `plot` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli.options import DEFAULT_RUNS, FIGURES_FOLDER, STUDIES_FOLDER, Runs, StudyName, not_built


def table(
    runs: Runs = None,
    study: StudyName = None,
    format: Annotated[str, typer.Option("--format", help="text, csv, md or latex.")] = "text",
    summary: Annotated[bool, typer.Option("--summary", help="A row a method only: quality kept and costs.")] = False,
    out: Annotated[Optional[Path], typer.Option("--out", help="Write to this file instead of stdout.")] = None,
) -> None:
    """The records as a table: quality with intervals and differences to dense, beside the cost."""
    from harness.cli.outputs import table_text

    text = table_text(_folder(runs, study), study, format, summary=summary)
    if out is None:
        typer.echo(text)
    else:
        from harness.kit.files import write_atomically

        write_atomically(out, (text + "\n").encode())


def plot(
    runs: Runs = None,
    study: StudyName = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the figures.")] = FIGURES_FOLDER,
    patches: Annotated[
        bool, typer.Option("--patches/--no-patches", help="Also draw which patches each method keeps.")
    ] = True,
    ratio: Annotated[float, typer.Option("--patches-ratio", help="Token ratio of the picture of kept patches.")] = 0.5,
) -> None:
    """Figures, SVG and PNG: quality against MACs and ratio, and which patches each method keeps for a few scenes."""
    from harness.cli.outputs import draw

    for path in draw(_folder(runs, study), study, out, patches=patches and study is None, ratio=ratio):
        typer.echo(str(path))


def _folder(runs: Path | None, study: str | None) -> Path:
    """Where the records of a command lie: those that a user measured unless another folder is named."""
    if study is None:
        return DEFAULT_RUNS if runs is None else runs
    return (STUDIES_FOLDER if runs is None else runs) / study


def report() -> None:
    """The HTML report (not built yet)."""
    not_built("report")
