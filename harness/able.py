"""Which tasks `--tasks all` means: those that the weights have heads for and the data annotations of."""

from __future__ import annotations

from pathlib import Path

from harness.cell import expand
from harness.data.formats.kinds import Kind
from harness.data.formats.source import Source
from harness.data.scenes import BUILT_IN_WORLD, WORLD_HOLDS
from harness.errors import HarnessError
from harness.models.build import host_class, skeleton
from harness.models.checkpoints import assets_of, find_weights, read_answers, stated_sizes, weights_file
from harness.models.released_files import is_released, read_released
from harness.registry import tasks

# The field of an ImageTextSet that files of a kind fill.
FILLS = {
    Kind.COCO_CAPTIONS: "captions",
    Kind.KARPATHY: "captions",
    Kind.ENTITIES: "captions",
    Kind.CAPTION_LIST: "captions",
    Kind.VQA_QUESTIONS: "questions",
    Kind.ALBEF_VQA: "questions",
    Kind.SNLI_VE: "hypotheses",
    Kind.ALBEF_VE: "hypotheses",
    Kind.NLVR2: "statements",
    Kind.ALBEF_NLVR: "statements",
    Kind.CLASS_FOLDERS: "classified",
}


def chosen_tasks(names: str, model: str, weights: Path | str | None, data: str) -> tuple[str, ...]:
    """'a,b' as tasks that exist, 'all' as `able_tasks`."""
    return able_tasks(model, weights, data) if names.strip() == "all" else expand(names, tasks)


def able_tasks(model: str, weights: Path | str | None, data: str) -> tuple[str, ...]:
    """The tasks of a host with some weights (None: those that ship with it) on a data folder or the built-in world.

    Questions are left out where no closed list of answers comes with the weights. Raises HarnessError where nothing is
    left, and for weights and folders that cannot be read.
    """
    path = weights_file(model) if weights is None else find_weights(weights)
    sizes = host_class(model).sizes_for(read_released(path)) if is_released(path) else stated_sizes(model, path)
    abilities = skeleton(model, sizes=sizes).abilities
    if not (read_answers(path.parent) or read_answers(assets_of(model))):
        abilities -= {"answer"}
    held = WORLD_HOLDS if data == BUILT_IN_WORLD else annotations_of(data)
    wanted = {name: tasks.get(name) for name in tasks.names()}
    found = tuple(name for name, task in wanted.items() if task.NEEDS & abilities and task.READS in held)
    if not found:
        able = ", ".join(name for name, task in wanted.items() if task.NEEDS & abilities) or "none"
        raise HarnessError(
            f"no task for {model} on {data}, which holds {', '.join(sorted(held)) or 'no annotations'}: "
            f"it can do {able}; see what the folder is with: python -m harness check data {data}"
        )
    return found


def annotations_of(folder: str) -> frozenset[str]:
    """Which fields of an ImageTextSet a folder's annotation files fill; HarnessError for one that cannot be read."""
    return frozenset(FILLS[found.kind] for found in Source(folder).of(*FILLS))
