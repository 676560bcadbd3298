"""What the two objectives share that train one side of a host on the built-in world alone, before any pair is seen.

The papers begin with a supervised ViT (DeiT) and with BERT, which nobody has aligned; these give scenes the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from harness.data.scene_layout import Scene, make_scene
from harness.data.world import TRAINING_SCENES, WORLD_SEED, World, world_of
from harness.hosts.host import HostModel
from harness.kit.errors import HarnessError
from harness.objectives.parts.batches import Asked, Batches
from harness.objectives.parts.objective import Objective, ObjectiveConfig
from harness.objectives.parts.scenes.steps import check_scenes, drawn_scenes


class SupervisedConfig(ObjectiveConfig):
    """The rate rises over `ramp_steps`, stays, and falls linearly to zero over the last `decay_share` of all steps."""

    training_scenes: PositiveInt = TRAINING_SCENES
    steps: PositiveInt
    learning_rate: float = Field(gt=0)
    ramp_steps: PositiveInt = 100
    decay_share: float = Field(default=0.3, gt=0, le=1)

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of optimizer step `step`, 0 .. `steps` - 1."""
        ramp = min(1.0, (step + 1) / self.ramp_steps)
        return self.learning_rate * ramp * min(1.0, (steps - step) / max(1, round(self.decay_share * steps)))


@dataclass(frozen=True)
class DrawnScenes:
    """The scenes of a step."""

    scenes: tuple[Scene, ...]
    bad: int = 0


class SceneStream:
    """Draws each step's scenes from a world's training split; an epoch is as many steps as there are batches of them.

    Which scenes a step has depends on the run's seed and the step alone.
    """

    def __init__(self, world: World, scenes: int, batch_size: int, seed: int) -> None:
        self.world, self.samples, self.batch_size, self.seed = world, scenes, batch_size, seed
        self.steps_per_epoch = max(1, scenes // batch_size)

    def epoch(self, epoch: int, skip_steps: int = 0) -> Iterator[DrawnScenes]:
        """The steps of an epoch from `skip_steps` on."""
        for at in range(skip_steps, self.steps_per_epoch):
            step = epoch * self.steps_per_epoch + at
            rows, _ = drawn_scenes(self.seed * 1_000_003 + step, self.samples, self.batch_size)
            yield DrawnScenes(tuple(make_scene(WORLD_SEED, "train", row, self.world) for row in rows.tolist()))

    def some_captions(self, most: int) -> list[str]:
        """None: the world's words come with the program."""
        return []


class SupervisedObjective(Objective[HostModel]):
    """Base class: scenes of one built-in world, one process; trains what it `leaves`, and nothing else."""

    LEAVES_UNUSED: ClassVar[bool] = True
    FROM_RANDOM: ClassVar[bool] = True

    @classmethod
    def batches(cls, asked: Asked, config: Any) -> Batches:
        world = world_of(asked.sources[0]) if len(asked.sources) == 1 and not asked.more else None
        if world is None:
            raise HarnessError(
                f"{cls.__name__}: is supervised by what a built-in world shows; take --data scenes alone"
            )
        if asked.world > 1:
            raise HarnessError(f"{cls.__name__}: works in one process, not in {asked.world}; start one")
        return SceneStream(world, config.training_scenes, asked.batch_size, asked.seed)

    def prepare(self) -> None:
        sizes = self.host.config
        check_scenes(type(self).__name__, sizes.image_size, sizes.patch_size, self.recipe.accumulate)
        for name, parameter in self.host.named_parameters():
            parameter.requires_grad_(re.fullmatch(self.leaves, name) is not None)

    def default_steps(self, steps_per_epoch: int) -> int:
        return int(self.config.steps)

    def rate(self, step: int, steps: int, steps_per_epoch: int) -> float:
        return float(self.config.rate(step, steps))
