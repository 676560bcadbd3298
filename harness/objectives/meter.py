"""METER's pre-training: masked words, and matching with half of the batch's images exchanged.

Source: Dou et al. 2022, arXiv 2111.02387, section 3.3; ELIP encodes every pair with its own text, exchanged images
and masked words included (arXiv 2309.16738).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.hosts.meter.model import Meter
from harness.kit import distributed
from harness.kit.draws import categorical, uniform
from harness.objectives.parts.objective import (
    MISMATCHES,
    WRONG_IMAGES,
    Losses,
    Moment,
    Objective,
    Pairs,
    mask_words,
    word_loss,
)


class MeterObjective(Objective[Meter]):
    """Masked words and matching, each a mean over the global batch."""

    NEEDS = frozenset({"match"})
    PARTS = ("co_attend", "match_logits", "mlm_logits")
    LEAST_PAIRS = 2

    def prepare(self) -> None:
        for head in (self.host.answer_head, self.host.entailment_head, self.host.pair_head, self.host.rank_head):
            head.requires_grad_(False)
        self.host.types["second_image"].requires_grad_(False)

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        host = self.host
        ids, labels = mask_words(
            pairs.ids, self.specials, pairs.sample_ids, moment, host.config.vocab_size, self.recipe.mask_rate
        )
        masked = host.text_batch(ids, pairs.mask)
        read = host.co_attend(masked, self.encode_images(pairs.pixels, masked))
        losses = {"masked_words": word_loss(host.mlm_logits(read.text.at_inputs()), labels)}
        if self.matches(moment):
            texts = host.text_batch(pairs.ids, pairs.mask)
            pixels, matching = self.exchanged(pairs, moment)
            pooled = host.co_attend(texts, self.encode_images(pixels, texts)).cls
            losses["matching"] = F.cross_entropy(host.match_logits(pooled), matching)
        return losses

    def exchanged(self, pairs: Pairs, moment: Moment) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), half of them replaced by other candidates, and 1 (B,) where an image is right."""
        count, device = len(pairs.pixels), pairs.pixels.device
        everyone = distributed.gather(pairs.sample_ids) if self.everywhere else pairs.sample_ids
        order = uniform(everyone, 1, moment.seed, MISMATCHES, moment.step)[:, 0].argsort(stable=True)
        right = torch.ones(len(everyone), dtype=torch.long, device=device)
        right[order[: len(everyone) // 2]] = 0
        own = self.own(count, device)
        others = torch.ones(count, len(everyone), device=device).scatter(1, own[:, None], 0)
        wrong = categorical(others, uniform(pairs.sample_ids, 1, moment.seed, WRONG_IMAGES, moment.step)[:, 0])
        images = distributed.gather(pairs.pixels) if self.everywhere else pairs.pixels
        return images[torch.where(right[own] == 1, own, wrong)], right[own]
