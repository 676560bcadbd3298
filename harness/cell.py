"""One measurement, completely specified: a cell, its content hash, and the grid of cells that a command plans."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from harness.errors import HarnessError
from harness.registry import methods, package_folder, tasks
from harness.store import key_of
from harness.train.protocol import Stage

MATCHES = ("tokens", "macs")


class Cell(BaseModel):
    """Everything a result depends on. `config` is the method's resolved config; digests name weights, data and code.

    `weights` are what the task is done with, or what its training starts from, none for pre-training; `base` names the
    set they belong to, of which other tasks may have others. `training`: the stages of the protocol that make the
    weights; none for inference.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    weights: str
    base: str
    method: str
    config: dict[str, Any]
    ratio: float | None
    schedule: str
    match: str
    protocol: str
    training: tuple[Stage, ...] = ()
    task: str
    task_options: dict[str, Any]
    data: str
    data_digest: str
    split: str | None
    limit: int | None
    device: str
    hardware: str
    threads: int
    dtype: str
    batch_size: int
    image_size: int
    seed: int
    code: str

    @cached_property
    def key(self) -> str:
        """sha256 of the canonical JSON of the whole spec."""
        return key_of(self.model_dump(mode="json"))

    @property
    def label(self) -> str:
        """Short human name: method, ratio or schedule, task."""
        budget = f"{self.ratio:g}" if self.ratio is not None else self.schedule
        return f"{self.model} {self.method} {budget} {self.task}" + (f" seed {self.seed}" if self.seed else "")


class RunRequest(BaseModel):
    """A command's options, before names are looked up: the grid methods x ratios x tasks x seeds on one model and set.

    `training`: by stage of the protocol (finetune, pretrain), what is chosen of its recipe and data.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: tuple[str, ...]
    ratios: tuple[float, ...] | None = None
    model: str = "albef-tiny"
    tasks: tuple[str, ...]
    task_options: dict[str, dict[str, Any]] = {}
    data: str = "scenes"
    split: str | None = None
    protocol: str = "inference"
    training: dict[str, dict[str, Any]] = {}
    schedule: str | dict[str, Any] | None = None
    match: str = "tokens"
    settings: dict[str, Any] = {}
    device: str = "auto"
    dtype: str = "float32"
    batch_size: int = 64
    limit: int | None = None
    image_size: int | None = None
    seeds: tuple[int, ...] = (0,)
    weights: Path | None = None

    @property
    def starts(self) -> bool:
        """Whether there are weights to start from: pre-training makes its own."""
        return self.protocol != "pretrain"


def expand(names: str, registry: Any, *, without: Sequence[str] = ()) -> tuple[str, ...]:
    """'a,b' or 'all' as names that exist, each once, in the order given."""
    if names.strip() == "all":
        return tuple(name for name in registry.names() if name not in without)
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not chosen:
        raise HarnessError(f"no {registry.kind} named; known: {', '.join(registry.names())}")
    for name in chosen:
        registry.entry(name)
    return tuple(dict.fromkeys(chosen))


def check_match(match: str) -> None:
    """HarnessError for an unknown match."""
    if match not in MATCHES:
        raise HarnessError(f"match {match!r}: expected one of {', '.join(MATCHES)}")


@lru_cache
def code_digest() -> str:
    """Digest of every .py file under harness/ and baselines/, so that committing results makes nothing stale."""
    digest = hashlib.sha256()
    for package in ("harness", "baselines"):
        root = package_folder(package)
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package}/{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


@lru_cache
def method_digest(method: str) -> str:
    """The code digest, extended by the source file of a method that lives outside this repository."""
    if methods.entry(method).path is not None:
        return code_digest()
    source = Path(inspect.getfile(methods.get(method))).read_bytes()
    return hashlib.sha256(code_digest().encode() + source).hexdigest()[:16]


def resolve_task_options(task: str, given: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A task's options with its defaults filled in."""
    from harness.schedule import validated

    options = validated(tasks.get(task).Options, given.get(task, {}), f"task {task}")
    return options.model_dump(mode="json")


def unique(cells: Iterable[Cell]) -> list[Cell]:
    """Cells by key, first come first kept."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        seen.setdefault(cell.key, cell)
    return list(seen.values())
