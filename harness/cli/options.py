"""What commands share: options, how their words become a request, threads, and the refusal of what is not built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer

from harness import __version__
from harness.cli.flags import parse_grouped, parse_settings
from harness.kit.errors import HarnessError
from harness.kit.registry import methods, tasks

Method = Annotated[
    str,
    typer.Option("--method", help="Methods, comma-separated, or 'all'. Dense is always measured beside them."),
]
Ratios = Annotated[
    Optional[str],
    typer.Option("--ratios", help="Token ratios, as 0.5,0.7; left out: each method's paper setting."),
]
Model = Annotated[str, typer.Option("--model", help="Host model (see: list models).")]
Models = Annotated[
    Optional[str],
    typer.Option(
        "--model", help="Host models, comma-separated; left out: albef-tiny, and blip-tiny for what it cannot do."
    ),
]
Tasks = Annotated[
    str, typer.Option("--tasks", help="Tasks, comma-separated, or 'all' that the weights and data allow.")
]
Data = Annotated[str, typer.Option("--data", help="Folder or file of a data set, or 'scenes', the built-in world.")]
Split = Annotated[
    Optional[str], typer.Option("--split", help="Of a set with splits; left out: test, else val, dev, train.")
]
Protocol = Annotated[str, typer.Option("--protocol", help="inference, finetune or pretrain.")]
ScheduleSpec = Annotated[
    Optional[str],
    typer.Option("--schedule", help="'paper', 'begin=2,4,10 keep=.9,.65,.4 [lookahead=2,6,2]', or a YAML/JSON file."),
]
Match = Annotated[
    str, typer.Option("--match", help="What --ratios sets: tokens, or forward MACs (macs) with all overhead.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, float64 or bfloat16.")]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Images or pairs per forward pass.")]
Limit = Annotated[Optional[int], typer.Option("--limit", min=1, help="Use the first N images only.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Seeds = Annotated[
    str, typer.Option("--seed", help="Seed of everything random, or several, as 0,1,2: tables show mean and sd.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder of the records.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Weights = Annotated[
    Optional[Path],
    typer.Option("--weights", help="A file or folder of weights, instead of those that ship with the model."),
]
Settings = Annotated[
    Optional[list[str]],
    typer.Option("--set", help="A field of the method's config, as keep_rate=0.7; repeatable."),
]
TaskSettings = Annotated[
    Optional[list[str]],
    typer.Option("--set-task", help="A task's option, as retrieval.rerank_k=32; repeatable."),
]
TrainSettings = Annotated[
    Optional[list[str]],
    typer.Option("--set-train", help="Of a protocol's training, as finetune.steps=300; repeatable."),
]
ImageSize = Annotated[Optional[int], typer.Option("--image-size", min=1, help="Image side in pixels.")]
Workers = Annotated[Optional[int], typer.Option("--workers", min=1, help="CPU threads; left out: all.")]
Force = Annotated[bool, typer.Option("--force", help="Compute again what is already there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of the records.")]
StudyName = Annotated[Optional[str], typer.Option("--study", help="A study's records instead (see: list studies).")]
DEFAULT_RUNS = Path("results/runs")
STUDIES_FOLDER = Path("results/studies")
# Options of `run`, `plan` and `evaluate` that a RunRequest takes by the same name.
SAME_NAMES = (
    "data",
    "split",
    "protocol",
    "schedule",
    "match",
    "device",
    "dtype",
    "batch_size",
    "limit",
    "image_size",
    "weights",
)


def requests(options: Mapping[str, Any]) -> list[Any]:
    """A RunRequest per host from the parameters of `run`, `plan` or `evaluate`.

    HarnessError for names and values that cannot be.
    """
    from harness.kit.settings import validated
    from harness.reduction.schedule import parse_ratios
    from harness.run.cell import RunRequest, expand
    from harness.run.choose import chosen_hosts

    fields = {
        "methods": expand(options["method"], methods, without=("dense",)),
        "ratios": None if options["ratios"] is None else parse_ratios(options["ratios"]),
        "seeds": parse_seeds(options["seed"]),
        "task_options": _task_settings(options["set_task"]),
        "training": parse_grouped(options["set_train"], "--set-train", "STAGE.option=value, as finetune.steps=300"),
        "settings": parse_settings(options["settings"]),
        **{name: options[name] for name in SAME_NAMES},
    }
    hosts = chosen_hosts(*(options[name] for name in ("model", "task_names", "weights", "data", "protocol")))
    return [validated(RunRequest, fields | {"model": model, "tasks": names}, "options") for model, names in hosts]


def parse_seeds(words: str) -> tuple[int, ...]:
    """(0, 1, 2) from '0,1,2', each once; HarnessError for what no generator takes as a seed."""
    try:
        seeds = tuple(dict.fromkeys(int(word) for word in words.split(",")))
    except ValueError as error:
        raise HarnessError(f"--seed {words!r}: expected a whole number, or several as 0,1,2") from error
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise HarnessError(f"--seed {seed}: expected a whole number from 0 to {2**32 - 1}")
    return seeds


def _task_settings(words: list[str] | None) -> dict[str, dict[str, Any]]:
    options = parse_grouped(words, "--set-task", "TASK.option=value, as retrieval.rerank_k=32")
    for task in options:
        tasks.entry(task)
    return options


def set_threads(workers: int | None) -> None:
    """Let torch use this many CPU threads; None: as many as it finds."""
    if workers is not None:
        import torch

        torch.set_num_threads(workers)


def not_built(command: str) -> NoReturn:
    """Refuse a command of the contract that does not exist yet."""
    raise HarnessError(f"{command} is not built yet in version {__version__}")
