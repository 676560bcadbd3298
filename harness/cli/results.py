"""The commands that show records: `table`, `plot` and `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli.options import DEFAULT_RUNS, FIGURES_FOLDER, STUDIES_FOLDER, Runs, StudyName, not_built
from harness.kit.errors import HarnessError
from harness.kit.registry import methods


def table(
    runs: Runs = None,
    study: StudyName = None,
    format: Annotated[str, typer.Option("--format", help="text, csv, md or latex.")] = "text",
    summary: Annotated[bool, typer.Option("--summary", help="A row a method only: quality kept and costs.")] = False,
    model: Annotated[
        Optional[str], typer.Option("--model", help="Only records of these hosts, comma-separated.")
    ] = None,
    split: Annotated[
        Optional[str],
        typer.Option(
            "--split", help="Columns by difficulty: samples that this method, as downsample, gets wrong and right."
        ),
    ] = None,
    standalone: Annotated[
        bool, typer.Option("--standalone", help="Of LaTeX: a whole document, with the preamble it needs.")
    ] = False,
    out: Annotated[Optional[Path], typer.Option("--out", help="Write to this file instead of stdout.")] = None,
) -> None:
    """The records as a table: quality with intervals and differences to dense, beside the cost."""
    from harness.cli.outputs import split_text, table_text

    if split is not None and summary:
        raise HarnessError("--split and --summary: are two tables; name one of them")
    if standalone and format != "latex":
        raise HarnessError(f"--standalone: is for --format latex, not {format}; leave it out")
    if split is not None and model is not None:
        raise HarnessError("--split and --model: a split is of all hosts; leave --model out")
    study = _name(study)
    folder = _folder(runs, study)
    if split is not None:
        text = split_text(folder, study, format, split)
    else:
        chosen = [name for name in (model or "").split(",") if name]
        text = table_text(folder, study, format, summary=summary, models=chosen)
    if standalone:
        from harness.report.layout import standalone as whole

        text = whole(text)
    if out is None:
        typer.echo(text)
    else:
        from harness.kit.files import write_atomically

        write_atomically(out, (text + "\n").encode())


def plot(
    runs: Runs = None,
    study: StudyName = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the figures.")] = FIGURES_FOLDER,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Draw only the Pareto fronts: quality against MACs, latency and memory.")
    ] = False,
    curves: Annotated[
        bool, typer.Option("--curves", help="Draw only how each loss fell in pre-training, a line per method.")
    ] = False,
    patches: Annotated[
        bool,
        typer.Option(
            "--patches/--no-patches",
            help="Also draw what elip, evit, tome and random keep, whatever was measured; --method names others.",
        ),
    ] = True,
    ratio: Annotated[
        float,
        typer.Option(
            "--patches-ratio", help="Token ratio of the picture of kept patches; a learned method has its own."
        ),
    ] = 0.5,
    method: Annotated[
        Optional[str],
        typer.Option("--method", help="Draw only the patches that these methods keep, comma-separated, or all."),
    ] = None,
    image: Annotated[
        Optional[Path], typer.Option("--image", help="With --method: an image of your own, in place of scenes.")
    ] = None,
    words: Annotated[
        Optional[str], typer.Option("--text", help="With --image: the text that text-guided methods read.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="With --method: the host that is drawn.")] = "albef-tiny",
    weights: Annotated[Optional[Path], typer.Option("--weights", help="With --method: the host's weights.")] = None,
    tokenizer: Annotated[
        Optional[str], typer.Option("--tokenizer", help="With --method: a vocabulary file, a folder, or a cached name.")
    ] = None,
) -> None:
    """Figures, SVG and PNG: quality against MACs and ratio, and which patches each method keeps for a few scenes.

    With --pareto, quality against forward and training MACs, latency and memory, with the front of what none beats.
    With --curves, the losses of pre-training over its steps.

    With --method, the patches that these methods keep, of an image and a text of your own.
    """
    from harness.cli.outputs import draw, draw_curves, draw_methods, draw_pareto

    if method is not None:
        names = methods.expand(method, without=("dense",))
        stem = out / f"patches-{names[0] if len(names) == 1 else 'methods'}"
        found = draw_methods(
            stem, names, ratio, model=model, weights=weights, tokenizer=tokenizer, image=image, text=words
        )
        typer.echo("\n".join(map(str, found)))
        return
    for flag, value in (("--image", image), ("--text", words), ("--weights", weights), ("--tokenizer", tokenizer)):
        if value is not None:
            raise HarnessError(f"{flag}: is for --method, which is not given; name the methods to draw")

    study = _name(study)
    if pareto or curves:
        chosen = [one for asked, one in ((pareto, draw_pareto), (curves, draw_curves)) if asked]
        for path in (path for one in chosen for path in one(_folder(runs, study), study, out)):
            typer.echo(str(path))
        return
    for path in draw(_folder(runs, study), study, out, patches=patches and study is None, ratio=ratio):
        typer.echo(str(path))


def _name(study: str | None) -> str | None:
    """The name that records of a study are kept under, which may be named by its file as in `ablate`."""
    if study is None or not Path(study).suffix:
        return study
    from harness.run.study import study_name  # brings torch, which drawing needs not

    return study_name(study)


def _folder(runs: Path | None, study: str | None) -> Path:
    """Where the records of a command lie: those that a user measured unless another folder is named."""
    if study is None:
        return DEFAULT_RUNS if runs is None else runs
    return (STUDIES_FOLDER if runs is None else runs) / study


def report() -> None:
    """The HTML report (not built yet)."""
    not_built("report")
