"""Studies: a YAML file of ablations/ names a grid of cells with labels; its records live in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.kit.errors import HarnessError
from harness.kit.progress import SILENT, Progress
from harness.kit.reading import read_yaml
from harness.kit.registry import NAME, studies, tasks
from harness.kit.settings import validated
from harness.run.cell import Cell, unique
from harness.run.choose import brings_answers, measurable_tasks
from harness.run.grid import by_training, plan_cells
from harness.run.request import RunRequest, answering, read_methods

SUFFIXES = (".yaml", ".yml")


class StudyCells(BaseModel):
    """One entry of a study's grid: methods x ratios at one schedule; label, placement and stages are for its figure."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    methods: str
    ratios: tuple[float, ...]
    schedule: dict[str, Any] | str | None = None
    settings: dict[str, Any] = {}
    label: str | None = None
    placement: str | None = None
    stages: int | None = None


class Study(BaseModel):
    """A study file: how it is drawn, options that all its runs share, and its cells."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    draw: Literal["tradeoff", "schedule"]
    run: dict[str, Any] = {}
    cells: list[StudyCells] = Field(min_length=1)


def study_name(named: str) -> str:
    """The name that a study's records are kept under: its own, or that of its file."""
    if not named.endswith(SUFFIXES):
        return named
    name = Path(named).stem
    if not NAME.fullmatch(name):
        raise HarnessError(f"study {named}: its records are kept under its name; call it by a-z, 0-9, - and _")
    return name


def read_study(named: str) -> Study:
    """A registered study by name, or one's own by its file; HarnessError when it does not exist or is malformed."""
    if not named.endswith(SUFFIXES) and named not in studies.entries() and Path(named).exists():
        raise HarnessError(f"study {named}: a study of one's own is a file whose name ends in {' or '.join(SUFFIXES)}")
    path: Path = Path(named) if named.endswith(SUFFIXES) else studies.get(named)
    return validated(Study, read_yaml(path) or {}, f"study {named}")


def plan_study(
    study: Study, options: dict[str, Any], progress: Progress = SILENT, answers: Path | None = None
) -> tuple[list[Cell], list[dict[str, Any]], list[tuple[RunRequest, list[Cell]]]]:
    """All cells of a study, and its index: for each entry its label, placement, stages, method and keys; and each
    entry's request with the cells that no entry before it has.

    `options` (device, limit, batch size …) override the study's own; `answers`: a list of those that vqa ranks.
    HarnessError where no cell measures what is answered.
    """
    cells: list[Cell] = []
    index: list[dict[str, Any]] = []
    asked: list[tuple[RunRequest, list[Cell]]] = []
    shared = {**study.run, **options}
    wanted = str(shared.pop("tasks", "all"))
    plain = validated(RunRequest, {**shared, "methods": (), "tasks": ()}, "study")
    # A list that is given takes the place of the study's own in training, too.
    training = {
        stage: {name: value for name, value in given.items() if answers is None or name != "answers"}
        for stage, given in plain.training.items()
    }
    shared |= answering(answers, plain.protocol, plain.task_options, training)
    listed = answers is not None or brings_answers(plain.data)
    every = (
        measurable_tasks(plain.model, plain.weights, plain.data, plain.protocol, listed=listed)
        if wanted.strip() == "all"
        else ()
    )
    names = every or tasks.expand(wanted)
    if answers is not None and "vqa" not in names:
        raise HarnessError(f"--answers: vqa is not measured here ({', '.join(names)}); leave it out")
    for entry in study.cells:
        fields = {
            "tasks": names,
            "ratios": entry.ratios,
            "schedule": entry.schedule,
            **shared,
        }
        own = {"methods": read_methods(entry.methods), "settings": entry.settings}
        request = validated(RunRequest, fields | own, "study")
        planned = plan_cells(request, progress)
        known = {cell.key for cell in cells}
        asked.append((request, [cell for cell in planned if cell.key not in known]))
        cells += planned
        labels = entry.model_dump(include={"label", "placement", "stages"}, exclude_none=True)
        for method in request.methods:
            keys = [cell.key for cell in planned if cell.method == method != "dense"]
            index += [{"method": method, **labels, "keys": keys}] if keys else []
    ordered = sorted(unique(cells), key=lambda cell: cell.method != "dense")
    return by_training(ordered), index, asked
