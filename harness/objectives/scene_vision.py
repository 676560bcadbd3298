"""A tower supervised by what the built-in world shows, as DeiT is by its classes: the start `scenes-vit`.

What each patch shows and where it lies, which facts hold of the image, and, later, what adjoins a patch. No text is
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
from harness.objectives.parts.scenes.facts import facts_loss, image_facts
from harness.objectives.parts.scenes.patch_parts import PartHeads, beside_loss, parts_loss, places_loss
from harness.objectives.parts.scenes.supervised import DrawnScenes, SupervisedConfig, SupervisedObjective


class SceneVisionConfig(SupervisedConfig):
    """`surroundings_from`: the share of all steps after which what adjoins a patch is learnt too, at
    `surroundings_weight`; the more a patch's state holds of others, the later fusion reads it.
    """

    steps: PositiveInt = 1500
    learning_rate: float = 1e-3
    places_weight: float = Field(default=0.5, ge=0)
    surroundings_from: float = Field(default=0.5, ge=0, le=1)
    surroundings_weight: float = Field(default=0.15, ge=0)


@dataclass(frozen=True)
class Shown(Batch):
    """Pixels (B, 3, H, W), what each patch shows (B, N), and which facts hold (B, K)."""

    pixels: Tensor
    patch_types: Tensor
    facts: Tensor


class SceneVision(SupervisedObjective):
    """Patches, places, facts and surroundings, by heads that are not left."""

    Config = SceneVisionConfig

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.heads = PartHeads(self.host.config.width)

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
        states, config = self.host.normed(images), self.config
        patches = states[:, 1:]
        found = {
            "patches": parts_loss(self.heads, patches, pairs.patch_types),
            "places": config.places_weight * places_loss(self.heads, patches),
            "facts": facts_loss(self.heads.facts, states[:, 0], pairs.facts),
        }
        if moment.done >= config.surroundings_from:
            around = beside_loss(self.heads, patches, pairs.patch_types)
            found["surroundings"] = config.surroundings_weight * around
        return found
