"""The fine-tuning losses of each task, one file each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from harness.hosts.build import split_name
from harness.hosts.host import HostModel, TaskName
from harness.hosts.parts.tokenizer import Specials
from harness.kit import ranks
from harness.kit.errors import HarnessError
from harness.kit.registry import unknown
from harness.objectives.objective import Objective
from harness.objectives.recipe import Recipe
from harness.reduction import TokenReducer

# Which question a host must answer before it can be trained on a task; retrieval trains what there is.
NEEDED = {"vqa": "answer", "entailment": "entail", "nlvr2": "compare", "captioning": "caption"}
TASKS: tuple[str, ...] = get_args(TaskName)


def make_downstream(
    name: str,
    task: str,
    host: HostModel,
    reducer: TokenReducer[Any],
    specials: Specials,
    recipe: Recipe,
    answers: Sequence[str] = (),
) -> Objective[Any]:
    """The objective that fine-tunes a host on a task; `answers` is the closed list of question answering.

    Raises HarnessError for an unknown task, a host that cannot do it, and a batch too small for it.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    if task in NEEDED and NEEDED[task] not in host.abilities:
        raise host.cannot(NEEDED[task])
    given: tuple[Any, TokenReducer[Any], Specials, Recipe] = host, reducer, specials, recipe
    if task == "vqa":
        from harness.objectives.downstream.answers import AnswerObjective

        return AnswerObjective(*given, answers)
    if task in {"entailment", "nlvr2"}:
        from harness.objectives.downstream.statements import CompareObjective, EntailObjective

        return EntailObjective(*given) if task == "entailment" else CompareObjective(*given)
    if task == "captioning":
        from harness.objectives.downstream.captioning import CaptionObjective

        return CaptionObjective(*given)
    from harness.objectives.downstream.retrieval import RETRIEVAL

    objective: Objective[Any] = RETRIEVAL[split_name(name)[0]](*given)
    if recipe.batch_size * (ranks.world() if objective.everywhere else 1) < 2:
        raise HarnessError(
            f"batch size {recipe.batch_size}: a pair is told from the others of its batch; expected at least 2 pairs"
        )
    return objective
