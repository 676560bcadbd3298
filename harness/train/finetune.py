"""Fine-tuning of any host on a task, with any method in its tower, on one process or many (accelerate)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.models.build import build_host
from harness.models.checkpoints import LoadedModel, load_model
from harness.models.host import HostModel
from harness.train.downstream import make_downstream
from harness.train.downstream.answers import frequent_answers
from harness.train.finetune_recipes import finetune_recipe
from harness.train.pretrain import untouched, with_scenes
from harness.train.request import FinetuneRequest
from harness.train.session import Session
from harness.train.task_data import TaskData, task_data


def finetune(request: FinetuneRequest) -> dict[str, Any]:
    """Run a fine-tuning to its end, from its last checkpoint where there is one; returns what recipe.json holds.

    Starts from the request's weights, by default those that ship with the host, and writes what `pretrain` writes;
    config.json holds the closed list of answers too. Raises HarnessError for anything the run cannot go on with.
    """
    recipe = finetune_recipe(request.model, request.task, untouched(request.data) | request.recipe)
    session = Session(request, recipe, unused_parameters=True)
    done = session.finished()
    if done is not None:
        return done
    start = load_model(request.model, request.init, recipe.image_size, request.tokenizer)
    data, answers = task_data(request.task, with_scenes(session), request.root, request.split), tuple[str, ...]()
    loader = session.loader(start.model.config, data.sources, data.refs)
    if request.task == "vqa":
        answers = _answers(request, recipe.answer_list, start, data)
    host = task_host(request.model, request.task, start.model, len(answers), recipe.dropout).train()
    objective = make_downstream(
        request.model, request.task, host, session.reducer(host), start.tokenizer.specials, recipe, answers
    )
    told = [] if start.report is None else start.report.lines()
    extra = {"answers": list(answers)} if answers else {}
    return session.train(objective, loader, start.tokenizer, told, **extra)


def task_host(name: str, task: str, start: HostModel, answers: int = 0, dropout: float | None = None) -> HostModel:
    """A host with a task's heads, started from one before fine-tuning or from one fine-tuned on the same task.

    `answers`: length of the closed list, for hosts that pick answers by class. HarnessError for weights that were
    fine-tuned on another task.
    """
    if start.config.task not in (None, task):
        raise HarnessError(
            f"weights to start from: fine-tuned on {start.config.task}, not on {task}; name earlier ones"
        )
    sizes = start.config.model_dump() | {"task": task}
    if dropout is not None:
        sizes["dropout"] = dropout
    if answers and "answer_classes" in sizes:
        sizes["answer_classes"] = answers
    host = build_host(name, **sizes)
    state = start.state_dict()
    goes_on = start.config.task == task and not answers
    host.load_state_dict(state if goes_on else host.started_from(state))
    return host


def _answers(request: FinetuneRequest, most: int, start: LoadedModel, data: TaskData) -> tuple[str, ...]:
    """The closed list: the file's, the data's, that of weights fine-tuned on it, or the most frequent answers."""
    if request.answers is not None:
        return read_answer_list(request.answers)
    if data.answers or start.model.config.task == "vqa":
        return data.answers or start.answers
    return frequent_answers([ref.target for ref in data.refs if isinstance(ref.target, tuple)], most)


def read_answer_list(path: Path) -> tuple[str, ...]:
    """A closed list of answers, as ALBEF's answer_list.json: a JSON list of different texts."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HarnessError(f"--answers {path}: cannot be read as JSON ({str(error).splitlines()[0]})") from error
    if not isinstance(listed, list) or not listed or not all(isinstance(answer, str) for answer in listed):
        raise HarnessError(f"--answers {path}: expected a JSON list of answers")
    if len(set(listed)) < len(listed):
        raise HarnessError(f"--answers {path}: holds an answer twice")
    return tuple(listed)
