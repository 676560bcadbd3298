"""Which file of weights a task is measured with: a folder may hold, beside its own weights, a folder per task.

Laid out as `finetune --out FOLDER/TASK` leaves it: FOLDER/model.safetensors are the weights before fine-tuning, and
FOLDER/entailment/model.safetensors those fine-tuned on entailment. The weights that ship with a host are such a folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.data.digest import data_digest
from harness.hosts.parts.tokenizer import HUB_FILE, TOKENIZER_FOLDER, VOCABULARY_FILE
from harness.hosts.weights.facts import BERT_FILES, CONFIG_FILE, OPEN_CLIP_FILE, PROGRAM_FILES
from harness.hosts.weights.find import WEIGHTS_FILE, WEIGHTS_FILES, assets_of, find_weights, weights_file
from harness.hosts.weights.hub import in_hub_cache
from harness.hosts.weights.own import file_metadata
from harness.hosts.weights.released_files import content_digest, is_released
from harness.kit.errors import HarnessError
from harness.kit.files import ASSETS, file_digest
from harness.kit.reading import why_no_file
from harness.kit.registry import models

# One of them is there wherever transformers finds a tokenizer in its cache.
TOKENIZER_FILES = (HUB_FILE, "tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")


def task_weights(model: str, weights: Path | str | None, task: str) -> Path:
    """The file that a host does a task with: that of the folder's folder for the task, else the folder's own.

    `weights`: a file, a folder or a name in the Hugging Face cache; None: those that ship with the host. Raises
    HarnessError where there is none.
    """
    folder = _folder(model, weights)
    if (folder / task).is_dir():
        return find_weights(folder / task)
    if _is_without_own(folder):
        raise HarnessError(
            f"weights {folder}: none for {task}, neither in its folder {task} nor of its own, {WEIGHTS_FILE}; "
            "leave the task out, or add them"
        )
    return start_weights(model, weights)


def start_weights(model: str, weights: Path | str | None) -> Path:
    """The file of weights before fine-tuning; HarnessError where there is none."""
    path = weights_file(model) if weights is None else find_weights(weights)
    if not path.is_file():
        raise HarnessError(f"weights {path}: {why_no_file(path)}; name a file or folder of weights with --weights")
    return path


def base_of(model: str, weights: Path | str | None) -> str:
    """What tells a set of weights, one per task, from others: the digest of its own file, or else its path."""
    folder = _folder(model, weights)
    if _is_without_own(folder):
        return folder.resolve().as_posix()
    return content_digest(start_weights(model, weights))


def weights_digest(model: str, path: Path, tokenizer: str | None = None) -> str:
    """16 hex digits of a file of weights and of what is read beside it: answers and prompt, facts of the architecture,
    vocabulary or tokenizer, and the `tokenizer` named in place of that.

    Where a folder lacks them the host's own are read, as `harness.hosts.weights.load.load_model` does.
    """
    digest = hashlib.sha256(content_digest(path).encode())
    for name in (OPEN_CLIP_FILE, *PROGRAM_FILES, *BERT_FILES):
        if (path.parent / name).is_file():
            digest.update(file_digest(path.parent / name).encode())
    if tokenizer is not None:
        digest.update(b"tokenizer\0" + tokenizer_digest(tokenizer).encode())
    for name in (CONFIG_FILE, VOCABULARY_FILE, HUB_FILE):
        digest.update(b"\0")
        for folder in (path.parent, assets_of(model)):
            if (folder / name).is_file():
                digest.update(file_digest(folder / name).encode())
                break
    if (path.parent / TOKENIZER_FOLDER).is_dir():
        digest.update(data_digest(path.parent / TOKENIZER_FOLDER).encode())
    return digest.hexdigest()[:16]


def tokenizer_digest(tokenizer: str) -> str:
    """The content of a vocabulary file or a tokenizer's folder; one of the Hugging Face cache goes by its name.

    HarnessError for what is neither here nor there.
    """
    path = Path(tokenizer)
    if path.is_file():
        return file_digest(path)
    if path.is_dir():
        return data_digest(path)
    if all(in_hub_cache(tokenizer, name) is None for name in TOKENIZER_FILES):
        raise HarnessError(
            f"tokenizer {tokenizer}: no vocabulary file or folder, and not in the Hugging Face cache; name one that is "
            f"here, or run `hf download {tokenizer}` where there is a network"
        )
    return tokenizer


def tasks_of(model: str, weights: Path | str | None, names: tuple[str, ...]) -> dict[str, Path]:
    """The file by task, for those of the tasks that there is one for.

    HarnessError where there is none at all, and for a task's folder without weights.
    """
    folder = _folder(model, weights)
    if not _is_without_own(folder):
        return {name: task_weights(model, weights, name) for name in names}
    found = {name: find_weights(folder / name) for name in names if (folder / name).is_dir()}
    if not found:
        start_weights(model, weights)  # says what is missing
    return found


def stated_model(weights: Path | str) -> str:
    """The host that weights of ours say they are of; HarnessError for a released program's, which do not say it."""
    folder = Path(weights)
    below = sorted(folder.glob(f"*/{WEIGHTS_FILE}"))
    path = below[0] if below and _is_without_own(folder) else find_weights(weights)
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


def _is_without_own(folder: Path) -> bool:
    """Whether this is a folder that has no weights but, maybe, those of its tasks."""
    return folder.is_dir() and not any((folder / name).is_file() for name in WEIGHTS_FILES)
