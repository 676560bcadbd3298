"""Fine-tuning on captioning: the words of a caption behind the recipe's prompt, read off the image alone.

Source: the released BLIP's models/blip.py (`blip_decoder`) and configs/caption_coco.yaml.
"""

from __future__ import annotations

from typing import Any

from harness.data.pair_batch import PairBatch
from harness.hosts.blip.model import Blip
from harness.hosts.parts.tokenizer import Tokenizer
from harness.kit import distributed
from harness.objectives.parts.objective import Losses, Moment, Objective, Pairs


class CaptionObjective(Objective[Blip]):
    """The mean loss of a caption's words. A caption is not there when an image is encoded, so it guides no method."""

    NEEDS = frozenset({"caption"})

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.prompt_words = 0

    def config_entries(self) -> dict[str, Any]:
        return {"prompt": self.recipe.prompt}

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Pairs:
        prompt = self.recipe.prompt
        if prompt:
            ids, _ = tokenizer([prompt])
            self.prompt_words = ids.shape[1] - 2
        ids, mask = tokenizer([f"{prompt}{caption}" for caption in batch.captions])
        return Pairs(batch.pixels, ids, mask, batch.sample_ids)

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        images = self.encode_images(pairs.pixels, None)
        labels = self.host.labels(pairs.ids, pairs.mask, self.prompt_words)
        words, counted = self.host.lm_loss_sum(
            pairs.ids, pairs.mask, images, labels, smoothing=self.recipe.label_smoothing
        )
        return {"caption": distributed.global_mean(words, counted)}
