"""Fine-tuning of any host on a task, with any method in its tower, on one process or many (accelerate)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.data.formats import load_questions
from harness.data.pairs import PairRef
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

# Tasks whose training data are image-caption pairs, as pre-training's are.
CAPTION_TASKS = ("retrieval", "captioning")


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
    sources = with_scenes(session)
    refs = () if request.task in CAPTION_TASKS else task_pairs(request.task, sources, request.root)
    loader = session.loader(start.model.config, sources if request.task in CAPTION_TASKS else (), refs)
    answers = _answers(request, recipe.answer_list, start, refs) if request.task == "vqa" else ()
    host = task_host(request.model, request.task, start.model, len(answers), recipe.dropout).train()
    objective = make_downstream(
        request.model, request.task, host, session.reducer(host), start.tokenizer.specials, recipe, answers
    )
    told = [] if start.report is None else start.report.lines()
    extra = {"answers": list(answers)} if answers else {}
    return session.train(objective, loader, start.tokenizer, told, **extra)


def task_pairs(task: str, sources: Sequence[str], root: Path | None = None) -> tuple[PairRef, ...]:
    """Images, texts and what is to be learnt about them, of annotated folders.

    A question's target is what its annotators answered, a statement's its class.
    """
    found: list[PairRef] = []
    for source in sources:
        if task == "vqa":
            found += [
                PairRef(f"{one.image.name}#{one.id}", one.image, (one.text,), one.answers)
                for one in load_questions(source).questions
            ]
        elif task == "entailment":
            from harness.data.formats import load_entailment

            found += [
                PairRef(f"{one.image.name}#{one.id}", one.image, (one.text,), one.label)
                for one in load_entailment(source).hypotheses
            ]
        else:
            from harness.data.formats import load_nlvr2

            found += [
                PairRef(str(one.id), one.images[0], (one.text,), one.label, one.images[1])
                for one in load_nlvr2(source).statements
            ]
    return tuple(found)


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
    host.load_state_dict(host.started_from(start.state_dict()))
    return host


def _answers(request: FinetuneRequest, most: int, start: LoadedModel, refs: Sequence[PairRef]) -> tuple[str, ...]:
    """The closed list: the file's; else that of the weights; else the training set's most frequent answers."""
    if request.answers is not None:
        return read_answer_list(request.answers)
    if start.answers:
        return start.answers
    return frequent_answers([ref.target for ref in refs if isinstance(ref.target, tuple)], most)


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
