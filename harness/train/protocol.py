"""Protocols: which stages of training a measurement rests on, in which of them the method works, and their key.

`finetune`: weights are fine-tuned on the task with the method, and evaluated reduced. `pretrain`: a host is pre-trained
with the method, then fine-tuned on the task and evaluated with all tokens. `inference` trains nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.data.digest import reader_modules
from harness.data.formats import OpenedSource
from harness.data.shards import is_shards
from harness.data.world import BUILT_IN_WORLD, world_of
from harness.hosts.build import host_config, skeleton
from harness.hosts.facts import HostFacts, host_facts
from harness.hosts.host import HostModel
from harness.hosts.weights.find import find_weights
from harness.hosts.weights.load import stated_sizes
from harness.hosts.weights.released_files import content_digest
from harness.hosts.weights.sets import start_weights, tokenizer_digest, weights_digest
from harness.kit.digest import key_of
from harness.kit.errors import HarnessError
from harness.kit.files import file_digest
from harness.kit.registry import methods, models, module_of, tasks
from harness.kit.settings import check_count
from harness.kit.sources import code_parts
from harness.objectives.parts.recipe import Recipe, finetune_recipe, finetuned_tasks, on_data, recipe_of
from harness.train.equal_budget import Budget, Trained, budget_of
from harness.train.request import RANDOM, FinetuneSpec, PretrainSpec, TrainSpec
from harness.train.source_digest import source_digest
from harness.train.stage_options import check_stages, read_options
from harness.train.starts import SIDES, check_starts, pretraining_changes, shipped_starts, start_digest
from harness.train.task_data import training_split

if TYPE_CHECKING:
    from harness.objectives import Choice

Given = Mapping[str, Mapping[str, Any]]
# Evaluated as pre-training leaves a host: by class names as texts, or by a probe on its features.
NOT_FINETUNED = "classification"


class Stage(TrainSpec):
    """One training run and all that its result depends on; its dump is part of a cell's spec.

    `method` and `config`: what works in the tower. `objective` and `objective_settings`: what is minimised, with every
    setting. `recipe`: every number of it. `budget`: what was asked for where steps or batch follow from it for each
    method, by the dotted name of what follows. `digests`: content of the data and of the files that are named, by
    option; scenes are named by count and seed. What changes no result is left out of the dump: where those files lie,
    processes that load images, steps between checkpoints. The device is no part of it either, so that CPU and GPU
    measure the same weights.
    """

    stage: Literal["pretrain", "finetune"]
    model: str
    task: str | None = None
    method: str = "dense"
    config: dict[str, Any] = Field(default={})
    objective: str = ""
    objective_settings: dict[str, Any] = Field(default={})
    recipe: dict[str, Any]
    budget: dict[str, str] = Field(default={})
    seed: int
    processes: int
    data: tuple[str, ...]
    split: str | None = None
    vocabulary: int | None = None
    digests: dict[str, str]
    files: dict[str, str] = Field(default={}, exclude=True)
    tokenizer: str | None = Field(default=None, exclude=True)
    workers: int = Field(default=0, exclude=True)
    save_every: int = Field(default=1000, exclude=True)
    asked: Budget | None = Field(default=None, exclude=True)

    @property
    def image_size(self) -> int:
        """Pixels of an image's side in training."""
        return int(self.recipe["image_size"])


def trainable_tasks(protocol: str, model: str) -> tuple[str, ...]:
    """The tasks that a host can be measured on after the training of a protocol."""
    check_stages(protocol, {})
    trained = finetuned_tasks(model)
    by_features = tasks.get(NOT_FINETUNED).NEEDS & host_facts(model).abilities
    after_pretraining = {NOT_FINETUNED} if protocol == "pretrain" and by_features else set()
    return tuple(name for name in tasks.names() if name in trained or name in after_pretraining)


def plan_stages(
    protocol: str,
    model: str,
    task: str,
    *,
    weights: Path | str | None = None,
    data: str = BUILT_IN_WORLD,
    image_size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    given: Given | None = None,
) -> list[Stage]:
    """The stages of training for one task, dense so far (see `with_method`); none for inference.

    `weights`: where fine-tuning starts under protocol finetune, by default the host's own. `data`: what is evaluated.
    `image_size`: of fine-tuning and evaluation, before their recipe's. `given`: by stage, its options and changed
    numbers. Loads no weights, reads no image, makes no scenes. Raises HarnessError for anything that cannot be.
    """
    given = given or {}
    check_stages(protocol, given)
    if protocol == "inference":
        return []
    if protocol == "finetune" and task == NOT_FINETUNED:
        raise HarnessError(f"{task} is not fine-tuned; leave it out or take --protocol inference or pretrain")
    shared: dict[str, Any] = {"model": model, "seed": seed, "processes": int(os.environ.get("WORLD_SIZE", "1"))}
    finetune = dict(given.get("finetune", {}))
    if image_size is not None and finetune.setdefault("image_size", image_size) != image_size:
        raise HarnessError(
            f"--image-size {image_size} and --set-train finetune.image_size={finetune['image_size']}: name one of them"
        )
    if protocol == "finetune":
        return [_finetuning(shared, task, finetune, data, device, start_weights(model, weights))]
    if weights is not None:
        raise HarnessError(
            f"--weights {weights}: pre-training starts afresh; to go on from some, --set-train pretrain.init=PATH"
        )
    first = _pretraining(shared, given.get("pretrain", {}), data, device)
    return [first] if task == NOT_FINETUNED else [first, _finetuning(shared, task, finetune, data, device, None)]


def with_method(
    stages: Sequence[Stage], method: str, config: Mapping[str, Any], ratio: float | None = None
) -> list[Stage]:
    """The stages with a method, by its resolved config, in the first: the one that a protocol is named after.

    `ratio`: the one that the config was made for. HarnessError for a budget that the method cannot keep, and for a
    method that the objective cannot serve.
    """
    if not stages:
        return []
    _choice(stages[0]).check_method(method)
    first = stages[0].model_copy(update={"method": method, "config": dict(config)})
    return [_within_budget(first, ratio), *stages[1:]]


def _within_budget(stage: Stage, ratio: float | None) -> Stage:
    """The stage with the steps and the batch that its budget comes to for its method."""
    if stage.asked is None or not stage.asked.asked:
        return stage
    trained = Trained(stage.model, _sizes(stage), stage.objective, stage.objective_settings, stage.method, stage.config)
    recipe, steps = stage.asked.resolve(Recipe.model_validate(stage.recipe), trained, ratio, stage.processes)
    return stage.model_copy(update={"recipe": recipe.model_dump(mode="json"), "steps": steps})


def method_host(stages: Sequence[Stage]) -> HostModel:
    """The host, without weights, that the method works in while training: its config is resolved for this tower."""
    return skeleton(stages[0].model, sizes=_sizes(stages[0]))


def method_facts(stages: Sequence[Stage]) -> HostFacts:
    """What is known of that host, without building it."""
    return host_facts(stages[0].model, sizes=_sizes(stages[0]))


def _sizes(stage: Stage) -> dict[str, Any]:
    """The sizes of the host that a stage trains, as far as they are not its preset's."""
    stated = stated_sizes(stage.model, find_weights(stage.files["init"])) if "init" in stage.files else {}
    return stated | {"image_size": stage.image_size}


def evaluation_image_size(stages: Sequence[Stage], image_size: int | None = None) -> int:
    """The image size that the trained host is evaluated at: the one asked for, or the last training's."""
    return stages[-1].image_size if image_size is None else image_size


def stage_code(stage: Stage) -> Mapping[str, str]:
    """Digests of the code that a stage's weights come from, by part: training, the host, the method, the objectives
    and the formats of its data.
    """
    fills = "captions" if stage.task is None else tasks.get(stage.task).READS
    digests = (stage.digests[f"data.{number}"] for number in range(len(stage.data)))
    readers = {one for source, digest in zip(stage.data, digests) for one in reader_modules(source, fills, digest)}
    own = (module_of(models, stage.model), module_of(methods, stage.method), *sorted(readers))
    return code_parts(f"harness.train.{stage.stage}", *own, *_choice(stage).modules)


def _choice(stage: Stage) -> Choice:
    """The objectives of a stage."""
    from harness.objectives import choose, choose_downstream

    if stage.stage == "finetune":
        assert stage.task is not None
        return choose_downstream(stage.model, stage.task)
    return choose(stage.model, stage.objective or None, stage.objective_settings)


def stage_key(stages: Sequence[Stage]) -> str:
    """sha256 of all that the last stage's weights depend on: the whole chain up to it, and the code of its training.

    Data count by their digests, not by the paths that they are found at.
    """
    chain = [
        {"stage": stage.model_dump(mode="json", exclude={"data"}), "code": dict(stage_code(stage))} for stage in stages
    ]
    return key_of({"stages": chain})


def stage_name(stages: Sequence[Stage]) -> str:
    """The folder of the last stage's run: pretrain-elip-KEY, or with its task finetune-dense-vqa-KEY."""
    last = stages[-1]
    named = [word for word in (last.stage, last.method, last.task) if word]
    return "-".join([*named, stage_key(stages)[:12]])


def _pretraining(shared: dict[str, Any], given: Mapping[str, Any], evaluated: str, device: str) -> Stage:
    """Pre-training on the built-in world that is evaluated, or else on the full one."""
    from harness.objectives import choose

    options, numbers = read_options("pretrain", given)
    assert isinstance(options, PretrainSpec)
    data = options.data or ((evaluated,) if world_of(evaluated) is not None else (BUILT_IN_WORLD,))
    choice = choose(shared["model"], options.objective, options.objective_settings)
    changes = pretraining_changes(shared["model"], data, numbers, from_random=choice.from_random)
    recipe = recipe_of(shared["model"], changes)
    budget = budget_of(options)
    if isinstance(budget.batch_size, int):
        recipe = recipe.model_copy(update={"batch_size": budget.batch_size})
    host_config(shared["model"], image_size=recipe.image_size)
    starts = {} if choice.from_random else shipped_starts(shared["model"], options, data)
    options = options.model_copy(update={"data": data} | starts)
    check_starts(shared["model"], {"image_size": recipe.image_size}, options)
    files = {name: getattr(options, name) for name in ("init", *SIDES.values(), "tokenizer")}
    own = {"objective": choice.name, "objective_settings": choice.settings(), "vocabulary": options.vocabulary}
    said = {"budget": budget.asked, "asked": budget}
    stage = _stage("pretrain", shared, options, recipe, data, files, device, **own, **said)
    named = {
        f"{term.name}.{field}": getattr(term.config, field) for term in choice.terms for field in term.config.FILES
    }
    digests = {name: _objective_file_digest(str(place)) for name, place in named.items() if place is not None}
    return stage.model_copy(update={"digests": stage.digests | digests})


def _finetuning(
    shared: dict[str, Any], task: str, given: Mapping[str, Any], evaluated: str, device: str, start: Path | None
) -> Stage:
    """Fine-tuning on a task; `start`: weights, None for those of the stage before."""
    from harness.objectives import choose_downstream
    from harness.train.finetune import takes_answers

    options, numbers = read_options("finetune", given)
    assert isinstance(options, FinetuneSpec)
    data = options.data or (evaluated,)
    recipe = finetune_recipe(shared["model"], task, on_data(shared["model"], task, data, numbers))
    sizes = {} if start is None else stated_sizes(shared["model"], start)
    if sizes.get("task") not in (None, task):
        raise HarnessError(
            f"weights {start}: fine-tuned on {sizes['task']}, not on {task}; name earlier ones with --weights"
        )
    host_config(shared["model"], **sizes | {"image_size": recipe.image_size})
    if options.split is None and options.root is None:
        _check_splits(task, data, asked_for=options.data is not None)
    choice = choose_downstream(shared["model"], task)
    # A closed list is for questions; the other tasks of a command go without.
    files = {
        "init": start,
        "tokenizer": options.tokenizer,
        "answers": options.answers if takes_answers(choice) else None,
    }
    own = {"task": task, "objective": choice.name}
    return _stage("finetune", shared, options, recipe, data, files, device, **own)


def _stage(
    stage: Literal["pretrain", "finetune"],
    shared: dict[str, Any],
    options: TrainSpec,
    recipe: Recipe,
    data: tuple[str, ...],
    files: Mapping[str, Path | str | None],
    device: str,
    **own: Any,
) -> Stage:
    """A stage of what was chosen; `files`: those that are named, by option."""
    from harness.train.session import check_precision

    check_precision(options.precision, device)
    check_count(f"--set-train {stage}.workers", options.workers)
    named = {name: str(place) for name, place in files.items() if place is not None}
    digests = {f"data.{number}": source_digest(source) for number, source in enumerate(data)}
    digests |= {name: _named_digest(name, place, shared["model"]) for name, place in named.items()}
    chosen = options.model_dump(include=set(TrainSpec.model_fields)) | {"data": data}
    numbers = recipe.model_dump(mode="json")
    return Stage(stage=stage, recipe=numbers, digests=digests, files=named, **shared, **chosen, **own)


def _check_splits(task: str, data: tuple[str, ...], *, asked_for: bool) -> None:
    """HarnessError for sets with splits but none for training, and for training unasked on what is evaluated."""
    for source in data:
        if world_of(source) is not None or is_shards(source):
            continue
        try:
            split = training_split(OpenedSource(source), task)
        except HarnessError as error:
            raise HarnessError(str(error).replace("--split", "--set-train finetune.split=NAME")) from error
        if split is None and not asked_for:
            raise HarnessError(
                f"data {source}: says nothing of splits, so that {task} would be trained on what is evaluated; name "
                "what to train on with --set-train finetune.data=PATH"
            )


def _objective_file_digest(place: str) -> str:
    """The content of the file or weights that an objective's settings name."""
    path = Path(place)
    if place in models.entries():
        return file_digest(start_weights(place, None))
    return file_digest(path if path.is_file() else find_weights(place))


def _named_digest(option: str, place: str, model: str) -> str:
    """The content of the file or folder that an option names; a tokenizer from the cache goes by its name.

    Weights to start from bring their vocabulary, and a closed list of answers.
    """
    path = Path(place)
    if option == "init":
        return weights_digest(model, find_weights(place))
    if option == "tokenizer":
        return tokenizer_digest(place)
    if option in SIDES.values():
        return RANDOM if place == RANDOM else start_digest(model, option, place)
    return file_digest(path) if option == "answers" else content_digest(find_weights(place))
