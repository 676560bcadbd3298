"""The commands that train: `pretrain` and `finetune`; their flags are the fields of what they ask for."""

from __future__ import annotations

import json
from typing import Annotated, Any, Optional, TypeVar

import typer

from harness.cli.flags import command_of
from harness.cli.options import set_threads
from harness.kit.settings import check_count
from harness.train.request import FinetuneRequest, PretrainRequest, TrainRequest

R = TypeVar("R", bound=TrainRequest)
PairsPerStep = Annotated[Optional[int], typer.Option("--batch-size", min=1, help="Pairs per process.")]
Epochs = Annotated[Optional[int], typer.Option("--epochs", min=1, help="Passes over the data.")]
Threads = Annotated[Optional[int], typer.Option("--threads", min=1, help="CPU threads; left out: all.")]


def _pretrain(request: PretrainRequest, epochs: Epochs = None, threads: Threads = None) -> None:
    """Pre-train a host with any method; the same command again goes on from the last checkpoint."""
    set_threads(threads)
    check_count("--workers", request.workers)
    from harness.train.pretrain import pretrain as train

    _print(train(with_numbers(request, epochs=epochs)))


def _finetune(
    request: FinetuneRequest, batch_size: PairsPerStep = None, epochs: Epochs = None, threads: Threads = None
) -> None:
    """Fine-tune a host on a task, with any method; the same command again goes on from the last checkpoint.

    Starts from --init, or from the weights that ship with the host. `evaluate --weights OUT` measures the result.
    """
    set_threads(threads)
    check_count("--workers", request.workers)
    from harness.train.finetune import finetune as train

    _print(train(with_numbers(request, batch_size=batch_size, epochs=epochs)))


pretrain = command_of(PretrainRequest, _pretrain)
finetune = command_of(FinetuneRequest, _finetune)


def with_numbers(request: R, **numbers: int | None) -> R:
    """The request with those numbers of its recipe that were given as flags of their own."""
    given = {name: number for name, number in numbers.items() if number is not None}
    return request.model_copy(update={"recipe": request.recipe | given})


def _print(record: dict[str, Any]) -> None:
    """The record of a finished run as JSON; other processes than the first have none."""
    if record:
        typer.echo(json.dumps(record))
