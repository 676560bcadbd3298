"""What a training run is asked to do: one spec that is the command's flags, a protocol's choices and the request."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator

from harness.data.world import BUILT_IN_WORLD, WORLDS
from harness.kit.settings import NO_FLAG, Flag

_WORLDS = " or ".join(WORLDS)
# In place of a start: weights as they are drawn, where a protocol would take the shipped starts.
RANDOM = "none"
Weights = Annotated[
    str | None,
    Field(description="Weights to start from: a folder of pretrain or finetune, or a released file."),
]


class TrainSpec(BaseModel):
    """What one may choose of every training run, also of a protocol's stage (`--set-train`)."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    data: Annotated[
        tuple[str, ...] | None,
        Field(description=f"What to train on: annotation files, their folders, patterns of tars, or {_WORLDS}"),
    ] = None
    root: Annotated[Path | None, Field(description="Folder of the images that a JSON names.")] = None
    split: Annotated[str | None, Field(description="What to train on of a set with splits; left out: train.")] = None
    steps: Annotated[PositiveInt | None, Field(description="Optimizer steps in all, in place of the epochs.")] = None
    tokenizer: Annotated[str | None, Field(description="A vocabulary file, a folder, or a cached name.")] = None
    precision: Annotated[Literal["no", "bf16", "fp16"], Field(description="Of products, as accelerate names it.")] = (
        "no"
    )
    recompute: Annotated[bool, Field(description="Gradient checkpointing: less memory, more time.")] = False
    workers: Annotated[NonNegativeInt, Field(description="Processes that load images; 0: none.")] = 0
    save_every: Annotated[PositiveInt, Field(description="Steps between checkpoints.")] = 1000

    @field_validator("data", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("precision", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return "no" if value is False else value  # YAML reads the word no as false


def _batch(words: str) -> int | str:
    return int(words) if words.isdecimal() else words


class PretrainSpec(TrainSpec):
    """What one may choose of pre-training beside that."""

    pairs: Annotated[PositiveInt | None, Field(description="Pairs seen in all, in place of steps and epochs.")] = None
    budget: Annotated[
        Literal["steps", "macs"],
        Field(
            description="What methods have in common: steps, or the multiply-adds of training (macs): those of dense "
            "times the ratio, in as many steps as they pay for."
        ),
    ] = "steps"
    batch_size: Annotated[
        int | str | None,
        Flag(read=_batch, metavar="N|fit:GIB"),
        Field(description="Pairs per process, or as many as the accounting of memory allows in so many GiB."),
    ] = None

    objective: Annotated[
        str | None,
        Field(
            description="What to minimise (see: list objectives), or a sum, as albef+0.5*clip; left out: the host's."
        ),
    ] = None
    objective_settings: Annotated[
        dict[str, dict[str, Any]],
        Flag("--set-objective", metavar="NAME.field=value"),
        Field(description="A field of an objective's config"),
    ] = {}
    init: Weights = None
    init_vision: Annotated[
        str | None,
        Field(description="The tower's: scenes-vit, a file of a timm ViT, DeiT or CLIP, or a host's name; or none."),
    ] = None
    init_text: Annotated[
        str | None,
        Field(description="The text side's: scenes-bert, a file or folder of BERT or RoBERTa, or a host's; or none."),
    ] = None
    vocabulary: Annotated[
        int | None, Field(ge=60, description="Build a vocabulary of so many words from the captions.")
    ] = None

    @field_validator("batch_size")
    @classmethod
    def _pairs_or_fit(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, str):
            fit_gib(value)
        elif value is not None and value < 1:
            raise ValueError("expected at least 1 pair")
        return value


def fit_gib(words: str) -> float:
    """4.0 from 'fit:4'; ValueError for anything else."""
    found = re.fullmatch(r"fit:(\d+(?:\.\d+)?)", words)
    if not found or not float(found[1]) > 0:
        raise ValueError("expected a number of pairs, or fit:GIB as fit:4")
    return float(found[1])


class FinetuneSpec(TrainSpec):
    """What one may choose of fine-tuning beside that."""

    answers: Annotated[Path | None, Field(description="JSON list of the answers that vqa chooses from.")] = None


class TrainRequest(TrainSpec):
    """A whole run: what is trained, with which method, from which weights, and where it is left.

    `recipe`: what is changed in the host's recipe. `config`: the method's whole config as it was resolved before, in
    place of ratio, schedule, settings and the paper's own for the host. `stage`: the key of the protocol's stage that
    this is, which covers the content of every file named; where those lie may change then.
    """

    model: Annotated[str, Field(description="Host model (see: list models).")] = "albef-tiny"
    data: Annotated[
        tuple[str, ...], Field(description=f"Annotation files, their folders, patterns of tars, or {_WORLDS}")
    ] = (BUILT_IN_WORLD,)
    out: Annotated[Path, Field(description="Folder of the weights, log and checkpoints.")]
    method: Annotated[str, Field(description="Token reduction in the vision tower.")] = "dense"
    ratio: Annotated[float | None, Field(description="Token ratio; left out: the paper's.")] = None
    schedule: Annotated[
        Any,
        Flag(read=str, metavar="SPEC"),
        Field(description="'paper', 'begin=2,4,10 keep=.9,.65,.4 [lookahead=2,6,2]', or a YAML/JSON file."),
    ] = None
    settings: Annotated[
        dict[str, Any], Flag("--set"), Field(description="A field of the method's config, as keep_rate=0.7")
    ] = {}
    config: Annotated[dict[str, Any] | None, NO_FLAG] = None
    recipe: Annotated[
        dict[str, Any],
        Flag("--recipe"),
        Field(
            description="A number of the recipe, as learning_rate=1e-4, or 'multipliers={vision: 0}', which freezes "
            "the tower"
        ),
    ] = {}
    init: Weights = None
    download: Annotated[
        bool, Field(description="Fetch what --init names from the Hugging Face hub where the cache does not have it.")
    ] = False
    seed: Annotated[int, Field(ge=0, lt=2**32, description="Seed of everything random.")] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda or cuda:N.")] = "auto"
    dtype: Annotated[str, Field(description="float32, float64 or bfloat16.")] = "float32"
    log_every: Annotated[PositiveInt, Field(description="Steps between log entries.")] = 10
    max_bad_share: Annotated[
        float, Field(ge=0, le=1, description="Share of an epoch's pairs that may be unreadable.")
    ] = 0.01
    store: Annotated[Literal["float32", "float16", "bfloat16"], Field(description="Dtype of the weights left.")] = (
        "float32"
    )
    stage: Annotated[str | None, NO_FLAG] = None
    quiet: Annotated[bool, Field(description="No progress.")] = False

    def fetch(self) -> None:
        """Bring what it starts from into the Hugging Face cache, where that was asked for; HarnessError where it
        cannot be fetched.
        """
        if not self.download:
            return
        from harness.hosts.weights.find import assets_of
        from harness.hosts.weights.hub import fetch
        from harness.kit.registry import models

        for option in ("init", "init_vision", "init_text"):
            named = getattr(self, option, None)
            here = named in (None, RANDOM) or named in models.entries() or assets_of(named).is_dir()
            if not here:
                fetch(named)


class PretrainRequest(TrainRequest, PretrainSpec):
    """The options of `pretrain`; `sizes` holds what is changed in the model's sizes."""

    out: Annotated[Path, Field(description="Folder of the weights, log and checkpoints.")] = Path("runs/pretrain")
    sizes: Annotated[dict[str, Any], Flag("--size"), Field(description="A size of the host, as depth=6")] = {}


class FinetuneRequest(TrainRequest, FinetuneSpec):
    """The options of `finetune`."""

    task: Annotated[str, Field(description="retrieval, vqa, entailment, nlvr2 or captioning.")]
    out: Annotated[Path, Field(description="Folder of the weights, log and checkpoints.")] = Path("runs/finetune")
    only: Annotated[
        str | None, Field(description="Train only on texts that contain a match of this regular expression.")
    ] = None
