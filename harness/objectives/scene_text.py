"""A text side supervised by the facts that captions of the built-in world state: the start `scenes-bert`.

It has a head of its own and sees no image, so that nothing is aligned before pairs are seen. Where the text side has
BERT's word head (ALBEF's: its fusion layers without cross-attention), hidden words are learnt as well, as BERT did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from harness.data.scene_text import CAPTIONS_PER_SCENE, caption_text, captions
from harness.hosts.host import HostModel
from harness.hosts.parts.tokenizer import Tokenizer
from harness.kit.errors import HarnessError
from harness.objectives.parts.objective import Batch, Losses, Moment, mask_words, word_loss
from harness.objectives.parts.scenes.corpus import OPEN, caption_facts
from harness.objectives.parts.scenes.facts import FACTS, facts_loss
from harness.objectives.parts.scenes.supervised import DrawnScenes, SupervisedConfig, SupervisedObjective


class SceneTextConfig(SupervisedConfig):
    """Every caption of a step's scenes is read. words_from_step: from when on words are hidden in each scene's first
    caption, for BERT's own loss; mask_rate: their share."""

    steps: PositiveInt = 600
    learning_rate: float = 2e-3
    captions_per_scene: PositiveInt = CAPTIONS_PER_SCENE
    words_from_step: NonNegativeInt = 300
    mask_rate: float = Field(default=0.15, gt=0, lt=1)


@dataclass(frozen=True)
class Stated(Batch):
    """Captions, ids and mask (B, L), their numbers (B,), and the facts that each states (B, K): 1, 0, or OPEN where it
    leaves one open."""

    ids: Tensor
    mask: Tensor
    sample_ids: Tensor
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
        facts = torch.from_numpy(np.stack([caption_facts(claims) for claims in said]))
        numbers = torch.tensor([scene.index for scene in drawn.scenes])[:, None] * CAPTIONS_PER_SCENE
        sample_ids = (numbers + torch.arange(len(said) // len(drawn.scenes))).flatten()
        return Stated(ids, mask, sample_ids, facts)

    def losses(self, pairs: Stated, moment: Moment) -> Losses:
        state_BD = self.host.text_state(self.host.text_batch(pairs.ids, pairs.mask))
        known_BK = pairs.facts != OPEN
        found = {"facts": facts_loss(self.head, state_BD, pairs.facts.clamp(min=0), known_BK)}
        if self.host.NAMES_WORDS and moment.step >= self.config.words_from_step:
            found["masked_words"] = self.masked_words(pairs, moment)
        return found

    def masked_words(self, pairs: Stated, moment: Moment) -> Tensor:
        """BERT's loss on the first caption of each scene."""
        first = slice(None, None, self.config.captions_per_scene)
        ids, mask, numbers = pairs.ids[first], pairs.mask[first], pairs.sample_ids[first]
        words, rate = self.host.config.vocab_size, self.config.mask_rate
        hidden, labels = mask_words(ids, self.specials, numbers, moment, words, rate)
        return word_loss(self.host.words_alone(hidden, mask), labels)
