"""The commands that train: `pretrain`, `finetune` and `evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from harness.cli_options import (
    Device,
    Dtype,
    Model,
    Quiet,
    ScheduleSpec,
    Seed,
    Settings,
    not_built,
    parse_settings,
    set_threads,
)

Numbers = Optional[list[str]]


def pretrain(
    model: Model = "albef-tiny",
    data: Annotated[
        Optional[list[str]],
        typer.Option("--data", help="ALBEF or COCO JSON, its folder, a pattern of tars, or scenes; repeatable."),
    ] = None,
    root: Annotated[Optional[Path], typer.Option("--root", help="Folder of the images that a JSON names.")] = None,
    method: Annotated[str, typer.Option("--method", help="Token reduction in the vision tower.")] = "dense",
    ratio: Annotated[Optional[float], typer.Option("--ratio", help="Token ratio; left out: the paper's.")] = None,
    schedule: ScheduleSpec = None,
    settings: Settings = None,
    out: Annotated[Path, typer.Option("--out", help="Folder of the weights, log and checkpoints.")] = Path(
        "results/pretrain"
    ),
    init: Annotated[
        Optional[str], typer.Option("--init", help="Weights to start from: a folder of pretrain, or a released file.")
    ] = None,
    init_vision: Annotated[
        Optional[str], typer.Option("--init-vision", help="The tower's: a file of a timm ViT, DeiT or CLIP.")
    ] = None,
    init_text: Annotated[
        Optional[str], typer.Option("--init-text", help="The text side's: a file or folder of BERT or RoBERTa.")
    ] = None,
    tokenizer: Annotated[
        Optional[str], typer.Option("--tokenizer", help="A vocabulary file, a folder, or a cached name.")
    ] = None,
    vocabulary: Annotated[
        Optional[int], typer.Option("--vocabulary", min=60, help="Build a vocabulary of so many words from captions.")
    ] = None,
    steps: Annotated[
        Optional[int], typer.Option("--steps", min=1, help="Optimizer steps, in place of the recipe's epochs.")
    ] = None,
    recipe: Annotated[
        Numbers, typer.Option("--recipe", help="A number of the recipe, as learning_rate=1e-4; repeatable.")
    ] = None,
    size: Annotated[Numbers, typer.Option("--size", help="A size of the host, as depth=6; repeatable.")] = None,
    batch_size: Annotated[Optional[int], typer.Option("--batch-size", min=1, help="Pairs per process.")] = None,
    epochs: Annotated[Optional[int], typer.Option("--epochs", min=1, help="Passes over the data.")] = None,
    precision: Annotated[str, typer.Option("--precision", help="no, bf16 or fp16.")] = "no",
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Gradient checkpointing: less memory, more time.")
    ] = False,
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    workers: Annotated[int, typer.Option("--workers", min=0, help="Processes that load images; 0: none.")] = 0,
    threads: Annotated[Optional[int], typer.Option("--threads", min=1, help="CPU threads; left out: all.")] = None,
    save_every: Annotated[int, typer.Option("--save-every", min=1, help="Steps between checkpoints.")] = 1000,
    log_every: Annotated[int, typer.Option("--log-every", min=1, help="Steps between log entries.")] = 10,
    max_bad_share: Annotated[
        float, typer.Option("--max-bad-share", help="Share of an epoch's pairs that may be unreadable.")
    ] = 0.01,
    quiet: Quiet = False,
) -> None:
    """Pre-train a host with any method; the same command again goes on from the last checkpoint.

    albef-tiny on scenes alone, dense, with nothing else changed: the curriculum that made the shipped weights.
    """
    set_threads(threads)
    sources = tuple(data or ["scenes"])
    numbers = {"batch_size": batch_size, "epochs": epochs}
    changes = parse_settings(recipe) | {key: value for key, value in numbers.items() if value is not None}
    plain = not any(
        (changes, size, init, init_vision, init_text, tokenizer, vocabulary, settings, schedule, ratio, recompute)
    )
    if (model, sources, method) == ("albef-tiny", ("scenes",), "dense") and plain:
        from harness.train.scenes.curriculum import pretrain as by_curriculum

        typer.echo(json.dumps(by_curriculum(model, "scenes", out, seed=seed, steps=steps, quiet=quiet)))
        return
    from harness.train.pretrain import pretrain as train
    from harness.train.request import PretrainRequest

    done: dict[str, Any] = train(
        PretrainRequest(
            model=model,
            data=sources,
            out=out,
            root=root,
            method=method,
            ratio=ratio,
            schedule=schedule,
            settings=parse_settings(settings),
            recipe=changes,
            sizes=parse_settings(size),
            steps=steps,
            init=init,
            init_vision=init_vision,
            init_text=init_text,
            tokenizer=tokenizer,
            vocabulary=vocabulary,
            seed=seed,
            device=device,
            dtype=dtype,
            precision=precision,
            recompute=recompute,
            workers=workers,
            save_every=save_every,
            log_every=log_every,
            max_bad_share=max_bad_share,
            quiet=quiet,
        )
    )
    if done:
        typer.echo(json.dumps(done))


def finetune() -> None:
    """Fine-tune a host on a task (not built yet)."""
    not_built("finetune")


def evaluate() -> None:
    """Evaluate a fine-tuned host (not built yet: `run` evaluates the shipped one)."""
    not_built("evaluate")
