"""BLIP's pre-training: contrast with momentum distillation and queues, matching with hard negatives, captions.

Source: Li et al. 2022, arXiv 2201.12086, section 3.2; ELIP reduces the student's image tokens for the image's own
caption (arXiv 2309.16738). Negatives' probabilities are raised by 1e-4, as in the released models/blip_pretrain.py.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.hosts.blip.model import Blip
from harness.kit import distributed
from harness.objectives.parts.momentum_contrast import Aligned, MomentumContrast
from harness.objectives.parts.objective import Losses, Moment, Pairs
from harness.reduction import Tokens, join


class BlipObjective(MomentumContrast[Blip]):
    """Contrast, matching and the caption's words, each a mean over the global batch."""

    NEEDS = frozenset({"contrast", "match"})
    PARTS = ("ground", "match_logits", "lm_loss_sum", "temperature")
    NEGATIVE_FLOOR = 1e-4

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        found = self.align(pairs, moment)
        matching = {"matching": self.matching(found, pairs, moment)} if self.matches(moment) else {}
        return {
            "contrast": found.contrast,
            **matching,
            "caption": self.caption(found.images, pairs),
        }

    def caption(self, images: Tokens, pairs: Pairs) -> Tensor:
        """The mean loss of the captions' words, read off the images."""
        words, counted = self.host.lm_loss_sum(pairs.ids, pairs.mask, images, smoothing=self.recipe.label_smoothing)
        return distributed.global_mean(words, counted)

    def matching(self, found: Aligned, pairs: Pairs, moment: Moment) -> Tensor:
        """Two-way cross-entropy over each pair, its image with a wrong text, and its text with a wrong image.

        A wrong image keeps the tokens that it was reduced to for its own caption.
        """
        images = found.images
        wrong_text, wrong_image = self.negatives(found.logits, pairs, moment)
        ids = self.candidates(pairs.ids, self.specials.pad)[wrong_text]
        mask = self.candidates(pairs.mask, 0)[wrong_text]
        wide = ids.shape[1] - pairs.ids.shape[1]
        every_ids = torch.cat([F.pad(pairs.ids.repeat(2, 1), (0, wide), value=self.specials.pad), ids])
        every_mask = torch.cat([F.pad(pairs.mask.repeat(2, 1), (0, wide)), mask])
        every_image = join([images, self.candidate_tokens(images).rows(wrong_image), images])
        match = self.host.match_logits(self.host.ground(every_ids, every_mask, every_image))
        return F.cross_entropy(match, (torch.arange(len(match), device=match.device) < len(images)).long())
