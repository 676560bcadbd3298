"""The commands that train: `pretrain` and `finetune`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from harness.cli.flags import parse_settings
from harness.cli.options import Device, Dtype, Model, Quiet, ScheduleSpec, Seed, Settings, set_threads

Numbers = Optional[list[str]]
Root = Annotated[Optional[Path], typer.Option("--root", help="Folder of the images that a JSON names.")]
OneMethod = Annotated[str, typer.Option("--method", help="Token reduction in the vision tower.")]
OneRatio = Annotated[Optional[float], typer.Option("--ratio", help="Token ratio; left out: the paper's.")]
Init = Annotated[
    Optional[str],
    typer.Option("--init", help="Weights to start from: a folder of pretrain or finetune, or a released file."),
]
Tokenizer = Annotated[Optional[str], typer.Option("--tokenizer", help="A vocabulary file, a folder, or a cached name.")]
Steps = Annotated[Optional[int], typer.Option("--steps", min=1, help="Optimizer steps, in place of the epochs.")]
RecipeNumbers = Annotated[
    Numbers,
    typer.Option(
        "--recipe",
        help="A number of the recipe, as learning_rate=1e-4, or 'multipliers={vision: 0}', which freezes the tower; "
        "repeatable.",
    ),
]
PairsPerStep = Annotated[Optional[int], typer.Option("--batch-size", min=1, help="Pairs per process.")]
Epochs = Annotated[Optional[int], typer.Option("--epochs", min=1, help="Passes over the data.")]
Precision = Annotated[str, typer.Option("--precision", help="no, bf16 or fp16.")]
Recompute = Annotated[bool, typer.Option("--recompute", help="Gradient checkpointing: less memory, more time.")]
Loaders = Annotated[int, typer.Option("--workers", min=0, help="Processes that load images; 0: none.")]
Threads = Annotated[Optional[int], typer.Option("--threads", min=1, help="CPU threads; left out: all.")]
SaveEvery = Annotated[int, typer.Option("--save-every", min=1, help="Steps between checkpoints.")]
LogEvery = Annotated[int, typer.Option("--log-every", min=1, help="Steps between log entries.")]
BadShare = Annotated[float, typer.Option("--max-bad-share", help="Share of an epoch's pairs that may be unreadable.")]
Store = Annotated[str, typer.Option("--store", help="Dtype of the weights left: float32, float16 or bfloat16.")]
# Options that reach a request as they are; the others are read first.
AS_THEY_ARE = (
    *("model", "out", "root", "method", "ratio", "schedule", "steps", "init", "tokenizer", "seed", "device", "dtype"),
    *("precision", "recompute", "workers", "save_every", "log_every", "max_bad_share", "store", "quiet"),
)


def pretrain(
    context: typer.Context,
    model: Model = "albef-tiny",
    data: Annotated[
        Optional[list[str]],
        typer.Option("--data", help="ALBEF or COCO JSON, its folder, a pattern of tars, or scenes; repeatable."),
    ] = None,
    root: Root = None,
    method: OneMethod = "dense",
    ratio: OneRatio = None,
    schedule: ScheduleSpec = None,
    settings: Settings = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the weights, log and checkpoints.")] = Path(
        "results/pretrain"
    ),
    init: Init = None,
    init_vision: Annotated[
        Optional[str],
        typer.Option("--init-vision", help="The tower's: a file of a timm ViT, DeiT or CLIP, or a host's name."),
    ] = None,
    init_text: Annotated[
        Optional[str],
        typer.Option("--init-text", help="The text side's: a file or folder of BERT or RoBERTa; an ALBEF for a BLIP."),
    ] = None,
    tokenizer: Tokenizer = None,
    vocabulary: Annotated[
        Optional[int], typer.Option("--vocabulary", min=60, help="Build a vocabulary of so many words from captions.")
    ] = None,
    steps: Steps = None,
    recipe: RecipeNumbers = None,
    size: Annotated[Numbers, typer.Option("--size", help="A size of the host, as depth=6; repeatable.")] = None,
    batch_size: PairsPerStep = None,
    epochs: Epochs = None,
    precision: Precision = "no",
    recompute: Recompute = False,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    workers: Loaders = 0,
    threads: Threads = None,
    save_every: SaveEvery = 1000,
    log_every: LogEvery = 10,
    max_bad_share: BadShare = 0.01,
    store: Store = "float32",
    quiet: Quiet = False,
) -> None:
    """Pre-train a host with any method; the same command again goes on from the last checkpoint.

    albef-tiny on scenes alone, dense, with nothing else changed: the curriculum that made the shipped weights.
    """
    set_threads(threads)
    from harness.train.request import PretrainRequest

    sides: dict[str, Any] = {"init_vision": init_vision, "init_text": init_text, "vocabulary": vocabulary}
    request = PretrainRequest(**_common(context.params), **sides, sizes=parse_settings(size, "--size"))
    if request.is_curriculum:
        from harness.train.scenes.curriculum import pretrain as by_curriculum

        _tell(by_curriculum(model, "scenes", out, seed=seed, steps=steps, quiet=quiet))
        return
    from harness.train.pretrain import pretrain as train

    _tell(train(request))


def finetune(
    context: typer.Context,
    task: Annotated[str, typer.Option("--task", help="retrieval, vqa, entailment, nlvr2 or captioning.")],
    model: Model = "albef-tiny",
    data: Annotated[
        Optional[list[str]],
        typer.Option("--data", help="Folder of the annotated training set, or scenes; repeatable."),
    ] = None,
    split: Annotated[
        Optional[str], typer.Option("--split", help="What to train on of a set with splits; left out: train.")
    ] = None,
    only: Annotated[
        Optional[str],
        typer.Option("--only", help="Train only on texts that contain a match of this regular expression."),
    ] = None,
    root: Root = None,
    method: OneMethod = "dense",
    ratio: OneRatio = None,
    schedule: ScheduleSpec = None,
    settings: Settings = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the weights, log and checkpoints.")] = Path(
        "results/finetune"
    ),
    init: Init = None,
    tokenizer: Tokenizer = None,
    answers: Annotated[
        Optional[Path], typer.Option("--answers", help="JSON list of the answers that vqa chooses from.")
    ] = None,
    steps: Steps = None,
    recipe: RecipeNumbers = None,
    batch_size: PairsPerStep = None,
    epochs: Epochs = None,
    precision: Precision = "no",
    recompute: Recompute = False,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    workers: Loaders = 0,
    threads: Threads = None,
    save_every: SaveEvery = 1000,
    log_every: LogEvery = 10,
    max_bad_share: BadShare = 0.01,
    store: Store = "float32",
    quiet: Quiet = False,
) -> None:
    """Fine-tune a host on a task, with any method; the same command again goes on from the last checkpoint.

    Starts from --init, or from the weights that ship with the host. `evaluate --weights OUT` measures the result.
    """
    set_threads(threads)
    from harness.train.finetune import finetune as train
    from harness.train.request import FinetuneRequest

    _tell(train(FinetuneRequest(**_common(context.params), task=task, split=split, only=only, answers=answers)))


def _common(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a TrainRequest from a command's parameters."""
    numbers = {name: options[name] for name in ("batch_size", "epochs") if options[name] is not None}
    return {name: options[name] for name in AS_THEY_ARE} | {
        "data": tuple(options["data"] or ["scenes"]),
        "settings": parse_settings(options["settings"]),
        "recipe": parse_settings(options["recipe"], "--recipe") | numbers,
    }


def _tell(done: dict[str, Any]) -> None:
    """The record of a finished run as JSON; other processes than the first have none."""
    if done:
        typer.echo(json.dumps(done))
