"""Pairs of which several may be of one image, as in the captions that retrieval is fine-tuned on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.data.pair_batch import PairBatch
from harness.data.pairs import sample_id
from harness.hosts.parts.tokenizer import Tokenizer
from harness.objectives.parts.objective import Pairs


@dataclass(frozen=True)
class Captioned(Pairs):
    """Pairs that say which image they are of: image_ids (B,) int64."""

    image_ids: Tensor


def captioned(batch: PairBatch, tokenizer: Tokenizer) -> Captioned:
    """A batch whose pairs of one image share an id: a key is the image's name and a number."""
    ids, mask = tokenizer(batch.captions)
    images = torch.tensor([sample_id(key.rpartition("#")[0] or key) for key in batch.keys])
    return Captioned(batch.pixels, ids, mask, batch.sample_ids, images)
