"""Contrast for fine-tuning on retrieval, in which every caption of an image is right for it, in batch and queue.

Source: the released model_retrieval.py of ALBEF and blip_retrieval.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.data.pair_batch import PairBatch
from harness.hosts.parts.tokenizer import Tokenizer
from harness.kit import distributed
from harness.objectives.downstream.parts.captioned import Captioned, captioned
from harness.objectives.parts.momentum_contrast import MomentumContrast

NOBODY = torch.iinfo(torch.int64).min


class ManyCaptions(MomentumContrast[Any]):
    """Contrast in which all pairs of an image are right, and none of them is a negative."""

    image_ids: Tensor

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.register_buffer("image_ids", torch.full((self.recipe.queue_size,), NOBODY))

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Captioned:
        return captioned(batch, tokenizer)

    def right_candidates(self, pairs: Any) -> Tensor:
        return torch.eq(pairs.image_ids[:, None], self.candidates(pairs.image_ids))

    def right_columns(self, pairs: Any) -> Tensor:
        return torch.cat([self.right_candidates(pairs), torch.eq(pairs.image_ids[:, None], self.image_ids)], dim=1)

    def enqueue(self, features: list[Tensor], pairs: Any) -> None:
        queued = distributed.gather(pairs.image_ids)
        self.image_ids.index_copy_(0, self.image_queue.next_places(len(queued)), queued)
        super().enqueue(features, pairs)
