"""Fine-tuning on captioning: the words of a caption behind the recipe's prompt, read off the image alone.

Source: the released BLIP's models/blip.py (`blip_decoder`) and configs/caption_coco.yaml.
"""

from __future__ import annotations

from typing import Any

from harness.data.pair_loader import PairBatch
from harness.hosts.blip.model import Blip
from harness.hosts.parts.tokenizer import Specials, Tokenizer
from harness.hosts.parts.towers import open_tower
from harness.kit import ranks
from harness.objectives.objective import Losses, Moment, Objective, Pairs
from harness.objectives.recipe import Recipe
from harness.reduction import TokenReducer, encode


class CaptionObjective(Objective[Blip]):
    """The mean loss of a caption's words. A caption is not there when an image is encoded, so it guides no method."""

    def __init__(self, host: Blip, reducer: TokenReducer[Any], specials: Specials, recipe: Recipe) -> None:
        super().__init__(host, reducer, specials, recipe)
        self.prompt_words = 0

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Pairs:
        prompt = self.recipe.prompt
        if prompt:
            ids, _ = tokenizer([prompt])
            self.prompt_words = ids.shape[1] - 2
        ids, mask = tokenizer([f"{prompt}{caption}" for caption in batch.captions])
        return Pairs(batch.pixels, ids, mask, batch.sample_ids)

    def forward(self, pairs: Pairs, moment: Moment) -> Losses:
        images = encode(open_tower(self.host.vision), self.reducer, pairs.pixels)
        labels = self.host.labels(pairs.ids, pairs.mask, self.prompt_words)
        words, counted = self.host.lm_loss_sum(
            pairs.ids, pairs.mask, images, labels, smoothing=self.recipe.label_smoothing
        )
        return {"caption": ranks.global_mean(words, counted)}
