"""The `check` commands: each prints its lines and leaves with status 1 if any is bad."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from harness.cli.options import DEFAULT_RUNS
from harness.kit.errors import HarnessError
from harness.kit.shown import on_one_line

checks = typer.Typer(
    help="Check the environment, a method, golden files, weights, data, records or captions.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _verdict(lines: list[tuple[str, bool]]) -> None:
    for line, _ in lines:
        typer.echo(on_one_line(line))
    if not all(good for _, good in lines):
        raise typer.Exit(1)


@checks.command("env")
def check_env() -> None:
    """Versions, device, Java, cache folder: what the harness will run with."""
    from harness.check.environment import lines

    _verdict(lines())


@checks.command("golden")
def check_golden(files: Annotated[list[Path], typer.Argument(help="Golden .safetensors files.")]) -> None:
    """Compare methods with the authors' released programs, in float64: name, largest absolute error, ok or FAIL."""
    from harness.check.golden.method import lines

    _verdict(lines(files))


@checks.command("method")
def check_method(
    names: Annotated[str, typer.Argument(help="Registered methods, comma-separated, or all.")],
    draws: Annotated[
        int, typer.Option("--draws", min=0, help="Also so many random towers, sizes and ratios; 200 for a night.")
    ] = 0,
) -> None:
    """Test methods for their authors: identity at ratio 1, batch order, gradients, reachable ratios, towers."""
    from harness.check import drawn
    from harness.check.method import lines
    from harness.kit.registry import methods

    chosen, good = methods.expand(names), True
    for name in chosen:
        for line, holds in [*lines(name), *drawn.lines(name, draws)]:
            typer.echo(on_one_line(f"{name}: {line}" if len(chosen) > 1 else line))
            good &= holds
    if not good:
        raise typer.Exit(1)


@checks.command("agreement")
def check_agreement(
    study: Annotated[str, typer.Argument(help="A study by name, or a file of one's own.")],
    limit: Annotated[int, typer.Option("--limit", min=2, help="Use the first N images.")] = 200,
) -> None:
    """Say how far the entries of a study keep the patches that its first one keeps, and what their scores cost."""
    from harness.check.agreement import lines

    for line, _ in lines(study, limit):
        typer.echo(line)


@checks.command("consistency")
def check_consistency(
    folder: Annotated[Path, typer.Argument(help="What pretrain --objective epic left.")],
    method: Annotated[str, typer.Option("--method", help="Methods, comma-separated, beside dense.")] = "random",
    ratio: Annotated[float, typer.Option("--ratio", help="Token ratio.")] = 0.5,
    limit: Annotated[int, typer.Option("--limit", min=2, help="Use the first N held-out scenes.")] = 500,
) -> None:
    """Say how often words are decided to fit their image where their patches are shown, and where they are pruned."""
    from harness.check.consistency import lines

    for line, _ in lines(folder, method, ratio, limit):
        typer.echo(line)


@checks.command("learning")
def check_learning(
    names: Annotated[str, typer.Argument(help="Methods that learn, comma-separated.")],
    ratio: Annotated[float, typer.Option("--ratio", help="Token ratio.")] = 0.5,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps.")] = 40,
    limit: Annotated[int, typer.Option("--limit", min=2, help="Use the first N held-out scenes.")] = 250,
    rate: Annotated[float, typer.Option("--rate", min=0, help="Learning rate.")] = 3e-3,
    with_host: Annotated[bool, typer.Option("--with-host", help="Train the host as well.")] = False,
) -> None:
    """Train a method, beside a host that stands still, and compare it with its untrained self."""
    from harness.check.learning import lines
    from harness.kit.registry import methods

    good = True
    for line, holds in lines(methods.expand(names, without=("dense",)), ratio, steps, limit, rate, with_host=with_host):
        typer.echo(line)
        good &= holds
    if not good:
        raise typer.Exit(1)


@checks.command("weights")
def check_weights(
    model: Annotated[str, typer.Argument(help="A host; without --weights one with shipped weights.")] = "albef-tiny",
    weights: Annotated[
        Optional[Path],
        typer.Option("--weights", help="What pretrain left, with vqa/ fine-tuned from it, to measure in its place."),
    ] = None,
    data: Annotated[
        Optional[str], typer.Option("--data", help="The world they were pre-trained on; left out: scenes-small.")
    ] = None,
    limit: Annotated[Optional[int], typer.Option("--limit", min=1, help="Use the first N scenes only.")] = None,
) -> None:
    """Measure weights against the floors they must reach on held-out scenes: those that ship, or a pre-training's."""
    if weights is None:
        from harness.check.weights import lines

        if data is not None:
            raise HarnessError(f"--data {data}: goes with --weights; those that ship are measured on scenes")
        _verdict(lines(model, limit))
    else:
        from harness.check import pretrained
        from harness.data.world import SMALL_WORLD

        _verdict(pretrained.lines(model, weights, data or SMALL_WORLD, limit))


@checks.command("results")
def check_results(
    runs: Annotated[Path, typer.Argument(help="Folder of records.")] = DEFAULT_RUNS,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete records of cells that this very code measured again.")
    ] = False,
) -> None:
    """Read every record and its samples; say which are whole, and which this code and these weights would reproduce."""
    from harness.check.results import lines

    _verdict(lines(runs, prune))


@checks.command("data")
def check_data(
    folder: Annotated[Path, typer.Argument(help="Folder or file of a data set.")],
    full: Annotated[bool, typer.Option("--full", help="Decode every image, not a sample of them.")] = False,
) -> None:
    """Recognise a data set, count it, and say what is missing."""
    from harness.check.data import lines

    _verdict(lines(folder, full))


@checks.command("captions")
def check_captions(
    captions: Annotated[Path, typer.Argument(metavar="HYP", help="Captions, one a line, or COCO's JSON of results.")],
    references: Annotated[
        list[Path],
        typer.Argument(metavar="REF…", help="References: line i is of caption i; of JSON one COCO captions file."),
    ],
) -> None:
    """Score captions by BLEU, METEOR, ROUGE-L, CIDEr and SPICE, as the COCO evaluation does."""
    from harness.check.captions import lines

    _verdict(lines(captions, references))
