"""Fine-tuning on image-text retrieval: what each host's retrieval rests on.

ALBEF and BLIP: contrast, in which every caption of an image is right for it, in the batch and in the queue, and
matching with hard negatives (released model_retrieval.py and blip_retrieval.py). METER: the right text among wrong
ones (`compute_irtr`). CLIP: its pre-training's contrast.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.data.pair_loader import PairBatch
from harness.data.pairs import sample_id
from harness.hosts.host import TextBatch
from harness.hosts.meter.model import Meter
from harness.hosts.parts.tokenizer import Specials, Tokenizer
from harness.kit import ranks
from harness.kit.draws import uniform
from harness.objectives.albef import AlbefObjective
from harness.objectives.blip import BlipObjective
from harness.objectives.clip import ClipObjective
from harness.objectives.momentum_contrast import MomentumContrast
from harness.objectives.objective import FALSE_TEXTS, Losses, Moment, Objective, Pairs
from harness.objectives.recipe import Recipe
from harness.reduction import TokenReducer

NOBODY = torch.iinfo(torch.int64).min


@dataclass(frozen=True)
class Captioned(Pairs):
    """Pairs that say which image they are of: image_ids (B,) int64."""

    image_ids: Tensor


def captioned(batch: PairBatch, tokenizer: Tokenizer) -> Captioned:
    """A batch whose pairs of one image share an id: a key is the image's name and a number."""
    ids, mask = tokenizer(batch.captions)
    images = torch.tensor([sample_id(key.rpartition("#")[0] or key) for key in batch.keys])
    return Captioned(batch.pixels, ids, mask, batch.sample_ids, images)


class ManyCaptions(MomentumContrast[Any]):
    """Contrast in which all pairs of an image are right, and none of them is a negative."""

    image_ids: Tensor

    def __init__(self, host: Any, reducer: TokenReducer[Any], specials: Specials, recipe: Recipe) -> None:
        super().__init__(host, reducer, specials, recipe)
        self.register_buffer("image_ids", torch.full((recipe.queue_size,), NOBODY))

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Captioned:
        return captioned(batch, tokenizer)

    def right_candidates(self, pairs: Any) -> Tensor:
        return torch.eq(pairs.image_ids[:, None], self.candidates(pairs.image_ids))

    def right_columns(self, pairs: Any) -> Tensor:
        return torch.cat([self.right_candidates(pairs), torch.eq(pairs.image_ids[:, None], self.image_ids)], dim=1)

    def enqueue(self, features: list[Tensor], pairs: Any) -> None:
        queued = ranks.gather(pairs.image_ids)
        self.image_ids.index_copy_(0, self.image_queue.next_places(len(queued)), queued)
        super().enqueue(features, pairs)


class AlbefRetrieval(ManyCaptions, AlbefObjective):
    """ALBEF's contrast and matching."""

    def forward(self, pairs: Pairs, moment: Moment) -> Losses:
        found = self.align(pairs, moment)
        return {"contrast": found.contrast, "matching": self.matching(found, pairs, moment)}


class BlipRetrieval(ManyCaptions, BlipObjective):
    """BLIP's contrast and matching; its released program draws negatives for retrieval without a floor."""

    NEGATIVE_FLOOR = 0.0

    def forward(self, pairs: Pairs, moment: Moment) -> Losses:
        found = self.align(pairs, moment)
        return {"contrast": found.contrast, "matching": self.matching(found, pairs, moment)}


class MeterRetrieval(Objective[Meter]):
    """Cross-entropy of the right text among the recipe's `false_texts` wrong ones of the batch, or fewer if there are.

    A text-guided method encodes the image anew for each of the texts; others once.
    """

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Captioned:
        return captioned(batch, tokenizer)

    def forward(self, pairs: Captioned, moment: Moment) -> Losses:
        host, count = self.host, len(pairs.pixels)
        chosen, right = self.texts_to_rank(pairs, moment)
        each = chosen.shape[1]
        own = host.text_batch(pairs.ids, pairs.mask)
        ids, mask = self.candidates(own.ids, self.specials.pad), self.candidates(own.mask, 0)
        every = TextBatch(ids, mask, self.candidate_tokens(own.tokens))
        texts = every.select(chosen.flatten())
        if self.reducer.needs_text:
            images = self.encode_images(pairs.pixels.repeat_interleave(each, 0), texts)
        else:
            images = self.encode_images(pairs.pixels, own).repeated(each)
        scores = host.rank(texts, images).view(count, each).masked_fill(right, -torch.inf)
        return {"ranking": F.cross_entropy(scores, torch.zeros(count, dtype=torch.long, device=scores.device))}

    def texts_to_rank(self, pairs: Captioned, moment: Moment) -> tuple[Tensor, Tensor]:
        """Candidates' rows (B, 1 + F): one's own, then others drawn without repetition, wrong ones before right ones.

        And which of the others are right all the same, (B, 1 + F): they are not to be ranked.
        """
        own = self.own(len(pairs.pixels), pairs.pixels.device)
        right = torch.eq(pairs.image_ids[:, None], self.candidates(pairs.image_ids))
        drawn = uniform(pairs.sample_ids, right.shape[1], moment.seed, FALSE_TEXTS, moment.step).masked_fill(right, -1)
        wrong = drawn.topk(min(self.recipe.false_texts, right.shape[1] - 1), dim=1).indices
        chosen = torch.cat([own[:, None], wrong], dim=1)
        return chosen, torch.cat([torch.zeros_like(own[:, None], dtype=torch.bool), right.gather(1, wrong)], dim=1)


RETRIEVAL: dict[str, type[Objective[Any]]] = {
    "albef": AlbefRetrieval,
    "blip": BlipRetrieval,
    "meter": MeterRetrieval,
    "clip": ClipObjective,
}
