"""A text side supervised by the facts that captions of the built-in world state: the start `scenes-bert`.

It has a head of its own and sees no image, so that nothing is aligned before pairs are seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from harness.data.scene_text import CAPTIONS_PER_SCENE, caption_text, captions
from harness.hosts.host import HostModel
from harness.hosts.parts.tokenizer import Tokenizer
from harness.kit.errors import HarnessError
from harness.objectives.parts.objective import Batch, Losses, Moment
from harness.objectives.parts.scenes.corpus import OPEN, caption_facts
from harness.objectives.parts.scenes.facts import FACTS, facts_loss
from harness.objectives.parts.scenes.supervised import DrawnScenes, SupervisedConfig, SupervisedObjective


class SceneTextConfig(SupervisedConfig):
    """Every caption of a step's scenes is read."""

    steps: PositiveInt = 500
    learning_rate: float = 2e-3
    captions_per_scene: PositiveInt = CAPTIONS_PER_SCENE


@dataclass(frozen=True)
class Stated(Batch):
    """Captions, ids and mask (B, L), and the facts that each states (B, K): 1, 0, or OPEN where it leaves one open."""

    ids: Tensor
    mask: Tensor
    facts: Tensor


class SceneText(SupervisedObjective):
    """The facts that a caption states, read from the state that stands for the whole text."""

    Config = SceneTextConfig

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.head = nn.Linear(self.host.text_stacks()[0].shape.width, FACTS)

    @classmethod
    def check_host(cls, host: HostModel) -> None:
        super().check_host(host)
        if not host.TEXT_SIDE:
            raise HarnessError(
                f"objective scene_text: {type(host).__name__} does not say which of its tensors read texts; state "
                "TEXT_SIDE in its class"
            )

    @property
    def leaves(self) -> str:
        return self.host.TEXT_SIDE

    def read(self, batch: Any, tokenizer: Tokenizer) -> Any:
        drawn: DrawnScenes = batch
        said = [claims for scene in drawn.scenes for claims in captions(scene, self.config.captions_per_scene)]
        ids, mask = tokenizer([caption_text(claims) for claims in said])
        return Stated(ids, mask, torch.from_numpy(np.stack([caption_facts(claims) for claims in said])))

    def losses(self, pairs: Stated, moment: Moment) -> Losses:
        state_BD = self.host.text_state(self.host.text_batch(pairs.ids, pairs.mask))
        known_BK = pairs.facts != OPEN
        return {"facts": facts_loss(self.head, state_BD, pairs.facts.clamp(min=0), known_BK)}
