"""What each step of the curriculum is: its phase, its learning rate and the scenes that are drawn for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from harness.data.scene_layout import PATCHES_PER_SIDE
from harness.data.world import TRAINING_SCENES
from harness.kit.errors import HarnessError
from harness.objectives.parts.objective import ObjectiveConfig

PHASES = ("vision", "text", "joint")


def check_scenes(objective: str, image_size: int, patch_size: int, accumulate: int) -> None:
    """HarnessError where a host's images, in pixels, are not a scene's, or steps are of several batches."""
    if image_size != PATCHES_PER_SIDE * patch_size:
        raise HarnessError(
            f"{objective}: a scene has {PATCHES_PER_SIDE} patches a side; take image_size "
            f"{PATCHES_PER_SIDE * patch_size}"
        )
    if accumulate > 1:
        raise HarnessError(f"{objective}: counts its steps in batches; leave the recipe's accumulate at 1")


class CurriculumConfig(ObjectiveConfig):
    """Steps named `from` count within the joint phase, which lasts until the run ends.

    Questions are the world's own mix, mostly of colours and shapes, until `late_questions_from_step`, then mostly of
    places. The learning rate rises over `ramp_steps`, stays, and falls linearly to zero over the last `decay_share` of
    the joint phase. Each scene of a batch is encoded once and shared by its texts.
    """

    training_scenes: PositiveInt = TRAINING_SCENES
    captions_per_scene: PositiveInt = 5
    questions_per_scene: PositiveInt = 8
    questions_per_step: PositiveInt = 4
    vision_steps: int = Field(default=2400, ge=0)
    text_steps: int = Field(default=800, ge=0)
    joint_steps: PositiveInt = 2000
    matching_from_step: int = Field(default=300, ge=0)
    surroundings_from_step: int = Field(default=750, ge=0)
    claims_from_step: int = Field(default=750, ge=0)
    late_questions_from_step: int = Field(default=1250, ge=0)
    masked_word_scenes: PositiveInt = 32
    vision_learning_rate: float = 1e-3
    text_learning_rate: float = 2e-3
    joint_learning_rate: float = 8e-4
    ramp_steps: PositiveInt = 100
    decay_share: float = Field(default=0.4, ge=0, le=1)
    early_mask_rate: float = 0.15
    mask_rate: float = 0.25
    answer_weight: float = 2.0
    early_masked_word_weight: float = 0.5
    masked_word_weight: float = 1.0
    matching_weight: float = 1.0
    claims_weight: float = 1.0
    contrast_weight: float = 1.0
    patch_weight: float = 0.5
    facts_weight: float = 0.5

    def place(self, step: int) -> tuple[str, int]:
        """The phase of an optimizer step, and which of that phase's steps it is."""
        for phase, count in (("vision", self.vision_steps), ("text", self.text_steps)):
            if step < count:
                return phase, step
            step -= count
        return "joint", step

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of optimizer step `step`, 0 .. `steps` - 1."""
        phase, within = self.place(step)
        ramp = min(1.0, (within + 1) / self.ramp_steps)
        if phase != "joint":
            return ramp * (self.vision_learning_rate if phase == "vision" else self.text_learning_rate)
        joint_steps = steps - self.vision_steps - self.text_steps
        falling = max(1, round(self.decay_share * joint_steps))
        return self.joint_learning_rate * ramp * min(1.0, (joint_steps - within) / falling)


@dataclass(frozen=True)
class SceneBatch:
    """The numbers of a step's scenes (B,), the seed of their world, and the one that the step's draws come from."""

    scenes: Tensor
    world: int
    seed: int
    bad: int = 0


class SceneBatches:
    """Draws each step's scenes; an epoch is as many steps as there are batches of scenes."""

    def __init__(self, config: CurriculumConfig, batch_size: int, seed: int) -> None:
        self.config, self.batch_size, self.seed = config, batch_size, seed
        self.samples = config.training_scenes
        self.steps_per_epoch = max(1, self.samples // batch_size)

    def epoch(self, epoch: int, skip_steps: int = 0) -> Iterator[SceneBatch]:
        """The steps of an epoch, whose seeds depend on the run's seed, the phase and the step in it."""
        for at in range(skip_steps, self.steps_per_epoch):
            phase, step = self.config.place(epoch * self.steps_per_epoch + at)
            seed = (self.seed * len(PHASES) + PHASES.index(phase)) * 1_000_003 + step
            scenes, _ = drawn_scenes(seed, self.samples, self.batch_size)
            yield SceneBatch(scenes, self.seed, seed)

    def some_captions(self, most: int) -> list[str]:
        """None: the world's words come with the program."""
        return []


def drawn_scenes(seed: int, scenes: int, batch_size: int) -> tuple[Tensor, torch.Generator]:
    """The numbers of a step's scenes (B,), and the generator that the step's other draws go on with."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(scenes, (batch_size,), generator=generator), generator
