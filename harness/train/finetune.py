"""Fine-tuning of any host on a task, with any method in its tower, on one process or many (accelerate)."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

from harness.data.annotations.answer_list import read_answer_list
from harness.hosts.build import build_host
from harness.hosts.host import HostModel
from harness.hosts.weights.load import LoadedModel, load_model
from harness.kit.distributed import run_together
from harness.kit.errors import HarnessError
from harness.kit.progress import Progress
from harness.kit.registry import tasks
from harness.objectives import Choice, choose_downstream
from harness.objectives.parts.answer_list import frequent_answers
from harness.objectives.parts.batches import with_scenes
from harness.objectives.parts.recipe import finetune_recipe, on_data
from harness.train.request import FinetuneRequest
from harness.train.session import Prepared, Session
from harness.train.task_data import TaskData, task_data


def finetune(request: FinetuneRequest) -> dict[str, Any]:
    """Run a fine-tuning to its end, from its last checkpoint where there is one; returns what recipe.json holds.

    Starts from the request's weights, by default those that ship with the host, and writes what `pretrain` writes;
    config.json holds the closed list of answers, or a captioner's prompt, too. Raises HarnessError for anything the run
    cannot go on with.
    """
    request.fetch()
    changes = on_data(request.model, request.task, request.data, request.recipe)
    recipe = finetune_recipe(request.model, request.task, changes)
    choice = choose_downstream(request.model, request.task)
    choice.check_method(request.method)
    if request.answers is not None and not takes_answers(choice):
        raise HarnessError(f"--answers {request.answers}: is for --task vqa, not {request.task}; leave it out")
    if request.answers is not None:
        read_answer_list(request.answers)  # before any data are read
    session = Session(request, recipe, unused_parameters=True)
    return session.finished() or session.train(run_together(partial(prepare, session, request, choice)))


def takes_answers(choice: Choice) -> bool:
    """Whether an objective is given a closed list of answers."""
    return "answers" in choice.terms[0].kind.Config.model_fields


def prepare(session: Session, request: FinetuneRequest, choice: Choice) -> Prepared:
    """All that a fine-tuning begins with."""
    recipe, progress = session.recipe, Progress(request.quiet)
    start = load_model(request.model, request.init, recipe.image_size, request.tokenizer)
    sources = with_scenes(request.data, progress, tasks.get(request.task).READS)
    data, answers = task_data(request.task, sources, request.root, request.split, request.only), tuple[str, ...]()
    batches = session.batches(choice, start.model.config, data.sources, data.refs)
    if takes_answers(choice):
        answers = _answers(request, recipe.answer_list, start, data)
        choice = choose_downstream(request.model, request.task, {"answers": answers})
        session.facts["closed_list"] = hashlib.sha256("\0".join(answers).encode()).hexdigest()[:16]
    host = task_host(start, request.task, answers, recipe.dropout).train()
    objective = choice.make(host, session.reducer(host, start.learned), start.tokenizer.specials, recipe)
    lines = [] if start.report is None else start.report.lines()
    return Prepared(choice, objective, batches, start.tokenizer, lines)


def task_host(loaded: LoadedModel, task: str, answers: tuple[str, ...] = (), dropout: float | None = None) -> HostModel:
    """A host with a task's heads, started from one before fine-tuning or from one fine-tuned on the same task.

    `answers`: the closed list; a host that picks answers by class starts with a new head where its own was for another
    list. HarnessError for weights that were fine-tuned on another task.
    """
    start = loaded.model
    if start.config.task not in (None, task):
        raise HarnessError(
            f"weights to start from: fine-tuned on {start.config.task}, not on {task}; name earlier ones"
        )
    sizes = start.config.model_dump() | {"task": task}
    if dropout is not None:
        sizes["dropout"] = dropout
    by_class = "answer_classes" in sizes
    if answers and by_class:
        sizes["answer_classes"] = len(answers)
    host = build_host(loaded.name, **sizes)
    state = start.state_dict()
    if answers and by_class and answers != loaded.answers:
        state = {name: tensor for name, tensor in state.items() if not name.startswith("answer_head.")}
        host.load_state_dict(host.started_from(state))
    else:
        host.load_state_dict(state if start.config.task == task else host.started_from(state))
    # What fine-tuning adds is trained by it; what was as drawn before stays so unless it is trained now.
    host.untrained = start.absent & frozenset(host.state_dict())
    return host


def _answers(request: FinetuneRequest, most: int, start: LoadedModel, data: TaskData) -> tuple[str, ...]:
    """The closed list: the file's, the data's, that of weights fine-tuned on it, or the most frequent answers."""
    if request.answers is not None:
        return read_answer_list(request.answers)
    listed = data.answers or (start.answers if start.model.config.task == "vqa" else ())
    return listed or frequent_answers([ref.target for ref in data.refs if isinstance(ref.target, tuple)], most)
