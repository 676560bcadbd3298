"""What commands share: options, how their words become a request, threads, and the refusal of what is not built."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, Optional

import typer

from harness import __version__
from harness.errors import HarnessError
from harness.registry import methods, tasks

Method = Annotated[
    str,
    typer.Option("--method", help="Methods, comma-separated, or 'all'. Dense is always measured beside them."),
]
Ratios = Annotated[
    Optional[str],
    typer.Option("--ratios", help="Token ratios, as 0.5,0.7; left out: each method's paper setting."),
]
Model = Annotated[str, typer.Option("--model", help="Host model (see: list models).")]
Tasks = Annotated[
    str, typer.Option("--tasks", help="Tasks, comma-separated, or 'all' that the weights and data allow.")
]
Data = Annotated[str, typer.Option("--data", help="Folder of a data set, or 'scenes', the built-in world.")]
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
ImageSize = Annotated[Optional[int], typer.Option("--image-size", min=1, help="Image side in pixels.")]
Workers = Annotated[Optional[int], typer.Option("--workers", min=1, help="CPU threads; left out: all.")]
Force = Annotated[bool, typer.Option("--force", help="Compute again what is already there.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of the records.")]
StudyName = Annotated[Optional[str], typer.Option("--study", help="A study's records instead (see: list studies).")]
DEFAULT_RUNS = Path("results/runs")
STUDIES_FOLDER = Path("results/studies")


AS_THEY_ARE = [
    "model",
    "data",
    "protocol",
    "schedule",
    "match",
    "device",
    "dtype",
    "batch_size",
    "limit",
    "image_size",
    "seed",
    "weights",
]


def request(options: Mapping[str, Any]) -> Any:
    """A RunRequest from the parameters of `run` or `plan`; HarnessError for names and values that cannot be."""
    from harness.able import chosen_tasks
    from harness.cell import RunRequest, expand
    from harness.schedule import parse_ratios, validated

    fields = {
        "methods": expand(options["method"], methods, without=("dense",)),
        "ratios": None if options["ratios"] is None else parse_ratios(options["ratios"]),
        "tasks": chosen_tasks(*(options[name] for name in ("task_names", "model", "weights", "data"))),
        "task_options": _task_settings(options["set_task"]),
        "settings": parse_settings(options["settings"]),
        **{name: options[name] for name in AS_THEY_ARE},
    }
    return validated(RunRequest, fields, "options")


def parse_settings(words: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """{'keep_rate': 0.7} from ['keep_rate=0.7'], values read as YAML; HarnessError that names the `option` given."""
    import yaml

    settings: dict[str, Any] = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise HarnessError(f"{option} {word!r}: expected name=value")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise HarnessError(f"{option} {word!r}: {value!r} is no number, word or list") from error
        settings[name.strip()] = value.split(",") if isinstance(parsed, str) and "," in parsed else parsed
    return settings


def _task_settings(words: list[str] | None) -> dict[str, dict[str, Any]]:
    options: dict[str, dict[str, Any]] = {}
    for name, value in parse_settings(words, "--set-task").items():
        task, dot, field = name.partition(".")
        if not dot:
            raise HarnessError(f"--set-task {name}: expected TASK.option=value, as retrieval.rerank_k=32")
        tasks.entry(task)
        options.setdefault(task, {})[field] = value
    return options


def set_threads(workers: int | None) -> None:
    """Let torch use this many CPU threads; None: as many as it finds."""
    if workers is not None:
        import torch

        torch.set_num_threads(workers)


def not_built(command: str) -> NoReturn:
    """Refuse a command of the contract that does not exist yet."""
    raise HarnessError(f"{command} is not built yet in version {__version__}")
