"""What a command asks to be measured: one spec whose fields are the request, the flags and their help. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, create_model, field_validator, model_validator

from harness.data.world import BUILT_IN_WORLD, SMALL_WORLD, WORLDS
from harness.kit.errors import HarnessError
from harness.kit.registry import methods, models, tasks
from harness.kit.settings import NO_FLAG, Flag, validated

# What --quick measures on, where no --limit says otherwise: about a minute for the default command on two cores.
QUICK_IMAGES = 100
MOST_IN_A_BATCH = 2**20
ANSWERS_HELP = "JSON list of the answers that vqa ranks; left out: the data's own, or else the weights'"
# Every registered method that makes sense where it is measured.
EVERY = ("all",)


def answering(
    answers: Path | None, protocol: str, task_options: dict[str, Any], training: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """What a list of answers changes in a request: an option of the task, and of its fine-tuning, unless that names
    another, where the protocol has one.
    """
    if answers is None:
        return {}
    named = {"answers": str(answers)}
    options = task_options | {"vqa": task_options.get("vqa", {}) | named}
    stage = {"finetune": named | training.get("finetune", {})} if protocol != "inference" else {}
    return {"task_options": options, "training": training | stage}


def read_seeds(words: str) -> tuple[int, ...]:
    """(0, 1, 2) from '0,1,2', each once; HarnessError for what no generator takes as a seed."""
    try:
        seeds = tuple(dict.fromkeys(int(word) for word in words.split(",")))
    except ValueError as error:
        raise HarnessError(f"--seed {words!r}: expected a whole number, or several as 0,1,2") from error
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise HarnessError(f"--seed {seed}: expected a whole number from 0 to {2**32 - 1}")
    return seeds


def read_methods(words: str) -> tuple[str, ...]:
    """The methods of 'elip,evit', or EVERY of 'all'; HarnessError for names that nobody registered."""
    return EVERY if words.strip() == EVERY[0] else methods.expand(words, without=("dense",))


def _read_ratios(words: str) -> tuple[float, ...]:
    from harness.reduction.schedule import parse_ratios

    return parse_ratios(words)


def _read_hosts(words: str) -> str:
    models.expand(words)
    return words


def _read_tasks(words: str) -> str:
    tasks.expand(words)
    return words


class Measurement(BaseModel):
    """What all cells of a command share, and the methods, ratios and seeds that they differ in."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    methods: Annotated[
        tuple[str, ...],
        Flag("--method", read=read_methods),
        Field(
            description="Methods, comma-separated, or 'all' that make sense there. Dense is always measured beside them"
        ),
    ]
    every_method: Annotated[bool, NO_FLAG] = False
    ratios: Annotated[
        tuple[float, ...] | None,
        Flag(read=_read_ratios),
        Field(description="Token ratios, as 0.5,0.7; left out: each method's paper setting"),
    ] = None
    data: Annotated[
        str,
        Flag(read=str, default=f"{BUILT_IN_WORLD}, for protocol pretrain {SMALL_WORLD}"),
        Field(min_length=1, description=f"Folder or file of a data set, or a built-in world: {', '.join(WORLDS)}"),
    ] = BUILT_IN_WORLD
    split: Annotated[str | None, Field(description="Of a set with splits; left out: test, else val, dev, train")] = None
    protocol: Annotated[str, Field(description="inference, finetune or pretrain")] = "inference"
    schedule: Annotated[
        str | dict[str, Any] | None,
        Flag(read=str),
        Field(description="'paper', 'begin=2,4,10 keep=.9,.65,.4 [lookahead=2,6,2]', or a YAML/JSON file"),
    ] = None
    match: Annotated[
        Literal["tokens", "macs", "train-macs"],
        Field(
            description="What --ratios sets: tokens, or MACs with all overhead, forward (macs) or a step's (train-macs)"
        ),
    ] = "tokens"
    device: Annotated[str, Field(description="auto, cpu, cuda or cuda:N")] = "auto"
    dtype: Annotated[str, Field(description="float32, float64 or bfloat16")] = "float32"
    batch_size: Annotated[int, Field(ge=1, le=MOST_IN_A_BATCH, description="Images or pairs per forward pass")] = 64
    limit: Annotated[PositiveInt | None, Field(description="Use the first N images only")] = None
    quick: Annotated[
        bool,
        Field(description=f"The first {QUICK_IMAGES} images and short timings: a first look, with wide intervals"),
    ] = False
    any_machine: Annotated[
        bool,
        Field(description="Keep no times: what one machine has finished counts on every other, and shares its tables"),
    ] = False
    seeds: Annotated[
        tuple[int, ...],
        Flag("--seed", read=read_seeds, default="0"),
        Field(description="Seed of everything random, or several, as 0,1,2: tables show mean and sd"),
    ] = (0,)
    weights: Annotated[
        Path | None,
        Field(
            description="A file or folder of weights, or a name in the Hugging Face cache, instead of those that ship "
            "with the model"
        ),
    ] = None
    tokenizer: Annotated[
        str | None,
        Field(description="A vocabulary file, a folder, or a cached name; left out: that of the weights"),
    ] = None
    download: Annotated[
        bool, Field(description="Fetch --weights from the Hugging Face hub where the cache does not have them")
    ] = False
    settings: Annotated[
        dict[str, Any],
        Flag("--set", metavar="[METHOD.]NAME=VALUE[,VALUE…]"),
        Field(
            description="A field of the method's config, as keep_rate=0.7; of one method of several as "
            "elip.vision_weight=0.8; several values (0.2,0.5,0.8) are a cell each"
        ),
    ] = {}
    task_options: Annotated[
        dict[str, dict[str, Any]],
        Flag("--set-task", metavar="TASK.option=value, as retrieval.rerank_k=32"),
        Field(description="A task's option"),
    ] = {}
    training: Annotated[
        dict[str, dict[str, Any]],
        Flag("--set-train", metavar="STAGE.option=value, as finetune.steps=300"),
        Field(description="Of a protocol's training"),
    ] = {}
    image_size: Annotated[PositiveInt | None, Field(le=8192, description="Image side in pixels")] = None

    @field_validator("task_options")
    @classmethod
    def _tasks_exist(cls, options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for task in options:
            tasks.entry(task)
        return options

    @model_validator(mode="before")
    @classmethod
    def _every_method(cls, given: Any) -> Any:
        """'all' as the names of all methods, of which those that make no sense are left out instead of refused."""
        if isinstance(given, dict) and tuple(given.get("methods", ())) == EVERY:
            return given | {"methods": methods.expand(EVERY[0], without=("dense",)), "every_method": True}
        return given

    @model_validator(mode="before")
    @classmethod
    def _small_enough_to_pretrain_in(cls, given: Any) -> Any:
        """Without data named, pre-training takes the world that the papers' own losses learn within a quarter hour."""
        if isinstance(given, dict) and given.get("protocol") == "pretrain":
            return {"data": SMALL_WORLD} | given
        return given

    @model_validator(mode="before")
    @classmethod
    def _few_images_where_quick(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("quick") and given.get("limit") is None:
            return given | {"limit": QUICK_IMAGES}
        return given

    @property
    def starts(self) -> bool:
        """Whether there are weights to start from: pre-training makes its own."""
        return self.protocol != "pretrain"


class RunRequest(Measurement):
    """The grid methods x ratios x tasks x seeds on one model and one set."""

    model: str = "albef-tiny"
    tasks: tuple[str, ...]


class _Names(BaseModel):
    """Hosts and tasks as words; fields of a base that stands behind another come before its fields."""

    hosts: Annotated[
        str | None,
        Flag("--model", read=_read_hosts),
        Field(description="Host models, comma-separated; left out: albef-tiny, and blip-tiny for what it cannot do"),
    ] = None
    tasks: Annotated[
        str | None,
        Flag(read=_read_tasks, default="retrieval,vqa of the built-in world; all of other data, weights and models"),
        Field(description="Tasks, comma-separated, or 'all' that the weights and data allow"),
    ] = None


class RunOptions(Measurement, _Names):
    """The options of `run` and `plan`: of several hosts, or of those that can do the tasks."""

    answers: Annotated[
        Path | None,
        Field(description=ANSWERS_HELP),
    ] = None

    def requests(self, chosen_on: str | None = None) -> list[RunRequest]:
        """A request per host; HarnessError for names and values that cannot be, and for options of other tasks.

        `chosen_on`: the data that hosts are chosen by, in place of those that are measured on.
        """
        from harness.run.choose import brings_answers, chosen_hosts, default_tasks

        if self.download:
            from harness.hosts.weights.hub import fetch

            fetch(self.weights)
        data = chosen_on or self.data
        listed = self.answers is not None or brings_answers(self.data)
        names = self.tasks or default_tasks(self.hosts, self.weights, data)
        hosts = chosen_hosts(self.hosts, names, self.weights, data, self.protocol, listed=listed)
        self._check_options({task for _, names in hosts for task in names})
        shared = self.model_dump(exclude={"hosts", "tasks", "answers"})
        shared |= answering(self.answers, self.protocol, self.task_options, self.training)
        return [validated(RunRequest, shared | {"model": model, "tasks": names}, "options") for model, names in hosts]

    def _check_options(self, measured: set[str]) -> None:
        """HarnessError for options of tasks that are not measured: they would say nothing."""
        other = sorted(self.task_options.keys() - measured)
        flag = f"--set-task {other[0]}.{next(iter(self.task_options[other[0]]))}" if other else ""
        if not other and self.answers is not None and "vqa" not in measured:
            flag, other = "--answers", ["vqa"]
        if other:
            tasks = ", ".join(sorted(measured))
            raise HarnessError(f"{flag}: {other[0]} is not measured here ({tasks}); leave it out, or name the task")


class EvaluateOptions(RunOptions):
    """The options of `evaluate`: those of `run`, of which none must be given."""

    methods: Annotated[
        tuple[str, ...],
        Flag("--method", read=read_methods, default="dense"),
        Field(description="Methods to measure too, comma-separated"),
    ] = ("dense",)
    tasks: Annotated[
        str | None,
        Flag(read=_read_tasks, default="all"),
        Field(description="Tasks, comma-separated, or 'all' that the weights and data allow"),
    ] = "all"


class AnswerOptions(RunOptions):
    """The options of `answer`: one host under one method at one budget, on questions without annotations."""

    methods: Annotated[
        tuple[str, ...],
        Flag("--method", read=read_methods, default="dense"),
        Field(description="Token reduction in the vision tower"),
    ] = ("dense",)
    ratios: Annotated[
        tuple[float, ...] | None,
        Flag("--ratio", read=_read_ratios),
        Field(description="Token ratio; left out: the paper's"),
    ] = None
    data: Annotated[str, Field(min_length=1, description="Questions: a file, or a folder with one such file")]
    seeds: Annotated[
        tuple[int, ...], Flag("--seed", read=read_seeds, default="0"), Field(description="Seed of everything random")
    ] = (0,)
    tasks: Annotated[str | None, NO_FLAG] = "vqa"
    protocol: Annotated[str, NO_FLAG] = "inference"
    training: Annotated[dict[str, dict[str, Any]], NO_FLAG] = {}
    quick: Annotated[bool, NO_FLAG] = False

    def request(self) -> RunRequest:
        """The one request; HarnessError for several models, methods, ratios or seeds."""
        # Which hosts can answer: a set without annotations says nothing of it.
        found = self.requests(chosen_on=BUILT_IN_WORLD)
        if len(found) > 1 or max(len(self.methods), len(self.ratios or ()), len(self.seeds)) > 1:
            raise HarnessError("answer: answers of one model under one method at a time; name one of each")
        return found[0]


def overrides(names: Sequence[str]) -> type[BaseModel]:
    """A spec of some of Measurement's fields, all of them optional: what a command changes in a study."""
    fields: dict[str, Any] = {}
    for name in names:
        field = Measurement.model_fields[name]
        marks = tuple(part for part in field.metadata if not isinstance(part, Flag))
        flags = tuple(Flag(part.name, part.read, None, part.metavar) for part in field.metadata if part not in marks)
        # Types made at run time, which pydantic reads and mypy cannot.
        kind = Annotated[(field.annotation, *marks)] if marks else field.annotation  # type: ignore[valid-type]  # see above
        about = Field(description=f"{field.description}; left out: the study's")
        fields[name] = (Annotated[(kind | None, *flags, about)], None)  # type: ignore[operator]  # see above
    return create_model(
        "StudyOptions", __config__=ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False), **fields
    )
