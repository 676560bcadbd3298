"""Which file of weights a task is measured with: a folder may hold, beside its own weights, a folder per task.

Laid out as `finetune --out FOLDER/TASK` leaves it: FOLDER/model.safetensors are the weights before fine-tuning, and
FOLDER/entailment/model.safetensors those fine-tuned on entailment. The weights that ship with a host are such a folder.
"""

from __future__ import annotations

from pathlib import Path

from harness.errors import HarnessError
from harness.files import file_digest
from harness.models.checkpoints import ASSETS, WEIGHTS_FILE, assets_of, file_metadata, find_weights, weights_file
from harness.models.released_files import is_released
from harness.registry import models


def task_weights(model: str, weights: Path | str | None, task: str) -> Path:
    """The file that a host does a task with: that of the folder's folder for the task, else the folder's own.

    `weights`: a file, a folder or a name in the Hugging Face cache; None: those that ship with the host. Raises
    HarnessError where there is none.
    """
    own = _folder(model, weights) / task
    return find_weights(own) if own.is_dir() else start_weights(model, weights)


def start_weights(model: str, weights: Path | str | None) -> Path:
    """The file of weights before fine-tuning; HarnessError where there is none."""
    return weights_file(model) if weights is None else find_weights(weights)


def base_of(model: str, weights: Path | str | None) -> str:
    """What tells a set of weights, one per task, from others: the digest of its own file, or else its path."""
    folder = _folder(model, weights)
    if folder.is_dir() and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        return folder.resolve().as_posix()
    return file_digest(start_weights(model, weights))


def tasks_of(model: str, weights: Path | str | None, names: tuple[str, ...]) -> dict[str, Path]:
    """The file by task, for those of the tasks that there is one for; HarnessError where there is none at all."""
    found, first = {}, None
    for name in names:
        try:
            found[name] = task_weights(model, weights, name)
        except HarnessError as error:
            first = first or error
    if first is not None and not found:
        raise first
    return found


def stated_model(weights: Path | str) -> str:
    """The host that weights of ours say they are of; HarnessError for a released program's, which do not say it."""
    folder = Path(weights)
    below = sorted(folder.glob(f"*/{WEIGHTS_FILE}"))
    path = below[0] if below and not (folder / WEIGHTS_FILE).is_file() else find_weights(weights)
    said = {} if is_released(path) else file_metadata(path)
    name = f"{said.get('architecture')}-{said.get('preset')}"
    if name not in models.entries():
        raise HarnessError(f"weights {path}: do not say of which host they are; name it with --model")
    return name


def shipped() -> tuple[str, ...]:
    """The hosts that weights ship with, by name."""
    return tuple(sorted(path.parent.name for path in ASSETS.glob(f"*/{WEIGHTS_FILE}")))


def _folder(model: str, weights: Path | str | None) -> Path:
    return assets_of(model) if weights is None else Path(weights)
