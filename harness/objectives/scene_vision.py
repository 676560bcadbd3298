"""A tower supervised by what the built-in world shows, as DeiT is by its classes: the start `scenes-vit`.

What each patch shows, which facts hold of the image, and, later, where a patch lies and what adjoins it. No text is
read, so that nothing is aligned before pairs are seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from harness.data.scene_layout import patch_types, render
from harness.data.transforms import normalise
from harness.hosts.parts.tokenizer import Tokenizer
from harness.kit.errors import HarnessError
from harness.objectives.parts.objective import Batch, Losses, Moment
from harness.objectives.parts.scenes.facts import VisionHeads, facts_loss, image_facts, patch_loss, surroundings_loss
from harness.objectives.parts.scenes.supervised import DrawnScenes, SupervisedConfig, SupervisedObjective


class SceneVisionConfig(SupervisedConfig):
    """`surroundings_from_step`: what a patch shows comes first, so that patches go on telling of themselves."""

    steps: PositiveInt = 1500
    learning_rate: float = 1e-3
    surroundings_from_step: int = Field(default=600, ge=0)
    surroundings_weight: float = 0.5


@dataclass(frozen=True)
class Shown(Batch):
    """Pixels (B, 3, H, W), what each patch shows (B, N), and which facts hold (B, K)."""

    pixels: Tensor
    patch_types: Tensor
    facts: Tensor


class SceneVision(SupervisedObjective):
    """Patches, facts and surroundings, by heads that are not left."""

    Config = SceneVisionConfig

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.heads = VisionHeads(self.host.config.width)

    @property
    def leaves(self) -> str:
        return r"vision\..+"

    def read(self, batch: Any, tokenizer: Tokenizer) -> Any:
        drawn: DrawnScenes = batch
        sizes = self.host.config
        return Shown(
            normalise(np.stack([render(scene) for scene in drawn.scenes]), sizes.mean, sizes.std),
            torch.from_numpy(np.stack([patch_types(scene) for scene in drawn.scenes])),
            torch.from_numpy(np.stack([image_facts(scene) for scene in drawn.scenes])),
        )

    def losses(self, pairs: Shown, moment: Moment) -> Losses:
        images = None if self.reducer.needs_text else self.encode_images(pairs.pixels, None)
        if images is None or images.states.shape[1] != 1 + pairs.patch_types.shape[1]:
            raise HarnessError("objective scene_vision: teaches what every patch shows; take --method dense")
        states = self.host.normed(images)
        found = {
            "patches": patch_loss(self.heads, states, pairs.patch_types),
            "facts": facts_loss(self.heads.facts, states[:, 0], pairs.facts),
        }
        if moment.step >= self.config.surroundings_from_step:
            around = surroundings_loss(self.heads, states, pairs.patch_types)
            found["surroundings"] = self.config.surroundings_weight * around
        return found
