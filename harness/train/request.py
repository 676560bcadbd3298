"""What a pre-training run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCENES = "scenes"


@dataclass(frozen=True)
class PretrainRequest:
    """The options of `pretrain`; `recipe` and `sizes` hold what is changed in the model's recipe
    and in its sizes.

    `steps`: optimizer steps in all, in place of the recipe's epochs. `init`: weights to start from (a folder that
    `pretrain` wrote, or a released file); `init_vision` and `init_text`: those of one side alone. `vocabulary`: words
    of a vocabulary built from the captions.
    `precision`: no, bf16 or fp16 (accelerate's). `recompute`: gradient checkpointing.
    """

    model: str
    data: tuple[str, ...]
    out: Path
    root: Path | None = None
    method: str = "dense"
    ratio: float | None = None
    schedule: Any = None
    settings: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    init: str | None = None
    init_vision: str | None = None
    init_text: str | None = None
    tokenizer: str | None = None
    vocabulary: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "float32"
    precision: str = "no"
    recompute: bool = False
    workers: int = 0
    save_every: int = 1000
    log_every: int = 10
    max_bad_share: float = 0.01
    quiet: bool = False
