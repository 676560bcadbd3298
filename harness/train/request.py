"""What a training run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCENES = "scenes"
# Of the built-in world that is trained on and evaluated; the seed of a run draws other things, never another world.
WORLD_SEED = 0


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """The options that `pretrain` and `finetune` share; `recipe` holds what is changed in the model's recipe.

    `steps`: optimizer steps in all, in place of the recipe's epochs. `init`: weights to start from (a folder that
    `pretrain` or `finetune` wrote, or a released file). `precision`: no, bf16 or fp16 (accelerate's). `recompute`:
    gradient checkpointing. `store`: the dtype of the weights that are left. `config`: the method's whole config as it
    was resolved before, in place of ratio, schedule, settings and the paper's own for the host. `stage`: the key of
    the protocol's stage that this is, which covers the content of every file named; where those lie may change then.
    """

    model: str
    data: tuple[str, ...]
    out: Path
    root: Path | None = None
    method: str = "dense"
    ratio: float | None = None
    schedule: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    init: str | None = None
    tokenizer: str | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    precision: str = "no"
    recompute: bool = False
    workers: int = 0
    save_every: int = 1000
    log_every: int = 10
    max_bad_share: float = 0.01
    store: str = "float32"
    stage: str | None = None
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class PretrainRequest(TrainRequest):
    """The options of `pretrain`; `sizes` holds what is changed in the model's sizes.

    `init_vision` and `init_text`: weights of one side alone. `vocabulary`: words of a vocabulary built from the
    captions.
    """

    sizes: dict[str, Any] = field(default_factory=dict)
    init_vision: str | None = None
    init_text: str | None = None
    vocabulary: int | None = None

    @property
    def is_curriculum(self) -> bool:
        """Whether it asks for the run that made albef-tiny's shipped weights: its seed, steps and folder may differ."""
        own = {name: getattr(self, name) for name in ("out", "seed", "steps", "quiet")}
        return self == PretrainRequest(model="albef-tiny", data=(SCENES,), **own)


@dataclass(frozen=True, kw_only=True)
class FinetuneRequest(TrainRequest):
    """The options of `finetune`; `answers`: a JSON file with the closed list of question answering; `split`: what to
    train on, by default train; `only`: a regular expression that texts must contain a match of to be trained on.
    """

    task: str
    split: str | None = None
    only: str | None = None
    answers: Path | None = None
