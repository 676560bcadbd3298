"""One measurement, completely specified: a cell, its content hash, and the code that it comes from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from harness.data.digest import reader_modules
from harness.kit.digest import key_of
from harness.kit.registry import costs, methods, models, module_of, tasks
from harness.kit.sources import code_parts
from harness.train.protocol import Stage, stage_code

# What every cell is measured by, beside its own host, method and task.
EVALUATION = ("harness.evaluate.encoder", "harness.hosts.ready")


class Cell(BaseModel):
    """Everything a result depends on. `config` is the method's resolved config; digests name weights, data and code.

    `weights` are what the task is done with, or what its training starts from, none for pre-training; `base` names the
    set they belong to, of which other tasks may have others. `training`: the stages of the protocol that make the
    weights; none for inference. `quick`: timed in short, so that its record is not served as the whole measurement.
    `hardware` and `threads`: of the machine whose times the record keeps; None where it keeps no times.
    `code`: digests of the program's parts that its quality comes from.
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
    quick: bool = False
    device: str
    hardware: str | None
    threads: int | None
    dtype: str
    batch_size: int
    image_size: int
    seed: int
    code: dict[str, str]

    @model_serializer(mode="wrap")
    def _quick_only_where_it_is(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The cell as it always was, but for one that is quick."""
        dumped: dict[str, Any] = fields(self)
        return dumped if self.quick else {name: value for name, value in dumped.items() if name != "quick"}

    @cached_property
    def key(self) -> str:
        """sha256 of the canonical JSON of the whole spec."""
        return key_of(self.model_dump(mode="json"))

    @property
    def timed(self) -> bool:
        """Whether its record keeps times, which are of one machine."""
        return self.hardware is not None

    @property
    def label(self) -> str:
        """Short human name: method, ratio or schedule, task."""
        budget = f"{self.ratio:g}" if self.ratio is not None else self.schedule
        return f"{self.model} {self.method} {budget} {self.task}" + (f" seed {self.seed}" if self.seed else "")


def cell_code(
    model: str, method: str, task: str, stages: Sequence[Stage], data: str, data_digest: str
) -> dict[str, str]:
    """Digests of the code that a cell's quality comes from, by part: its host, method, task and data, and its training.

    Raises HarnessError for data that cannot be read.
    """
    readers = reader_modules(data, tasks.get(task).READS, data_digest)
    own = (module_of(models, model), module_of(methods, method), module_of(tasks, task), *readers)
    parts = dict(code_parts(*EVALUATION, *own))
    for stage in stages:
        parts |= stage_code(stage)
    return parts


def cost_code(model: str, method: str) -> dict[str, str]:
    """Digests of the code that the costs of a method in a host's tower come from, by part."""
    extra = (module_of(costs, name) for name in costs.names())
    return dict(code_parts("harness.cost.report", module_of(models, model), module_of(methods, method), *extra))


def resolve_task_options(task: str, given: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A task's options with its defaults filled in."""
    from harness.kit.settings import validated

    options = validated(tasks.get(task).Options, given.get(task, {}), f"task {task}")
    return options.model_dump(mode="json")


def unique(cells: Iterable[Cell]) -> list[Cell]:
    """Cells by key, first come first kept."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        seen.setdefault(cell.key, cell)
    return list(seen.values())
