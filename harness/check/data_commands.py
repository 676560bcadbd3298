"""The commands that `check data` prints: each runs as it stands, with the weights that ship, where those can do it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from shlex import join

from harness.data.scenes import BUILT_IN_WORLD
from harness.kit.registry import tasks
from harness.objectives.finetune_recipes import FINETUNE_RECIPES
from harness.run.choose import measurable_tasks, shipped_hosts

HARNESS = ("python", "-m", "harness")


def run_commands(names: Sequence[str], data: str) -> list[str]:
    """The command of each task that exists; where no shipped weights can do it, before it the one that trains them."""
    return [command for name in names if name in tasks.names() for command in _task_commands(name, data)]


def pretrain_command(source: str) -> str:
    """The command that pre-trains on a source."""
    return join([*HARNESS, "pretrain", "--model", "albef-tiny", "--data", source])


def answer_command(data: str) -> str:
    """The command that answers questions for the server of VQA v2."""
    return join([*HARNESS, "answer", "--method", "elip", "--data", data, "--out", "answers.json"])


def metrics_command(captions: Path, references: Sequence[Path]) -> str:
    """The command that scores captions."""
    return join([*HARNESS, "check", "captions", str(captions), *map(str, references)])


def _task_commands(task: str, data: str) -> list[str]:
    host = next((host for host in shipped_hosts() if task in _shipped_tasks(host)), None)
    if host is not None:
        return [_run(host, task, data)]
    host = next(host for host in shipped_hosts() if task in FINETUNE_RECIPES[host])
    weights = f"results/{host}-{task}"
    train = join([*HARNESS, "finetune", "--model", host, "--task", task, "--data", BUILT_IN_WORLD, "--out", weights])
    return [train, _run(host, task, data, "--weights", weights)]


def _run(host: str, task: str, data: str, *more: str) -> str:
    return join([*HARNESS, "run", "--method", "elip", "--model", host, "--tasks", task, "--data", data, *more])


@cache
def _shipped_tasks(host: str) -> tuple[str, ...]:
    """What the weights that ship with a host can do; the built-in world has annotations for every task."""
    return measurable_tasks(host, None, BUILT_IN_WORLD, must=False)
