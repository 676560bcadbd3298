"""ALBEF's pre-training: contrast with momentum distillation and queues, matching with hard negatives, masked words.

Source: Li et al. 2021, arXiv 2107.07651, section 3; ELIP reduces the student's image tokens for the image's own
caption, the momentum tower keeps them all (arXiv 2309.16738).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.hosts.albef.model import Albef
from harness.objectives.parts.momentum_contrast import Aligned, MomentumContrast
from harness.objectives.parts.objective import Losses, Moment, Pairs, mask_words, soft_word_loss, word_loss
from harness.reduction import Tokens, join


class AlbefObjective(MomentumContrast[Albef]):
    """Contrast, matching and masked words, each a mean over the global batch."""

    NEEDS = frozenset({"contrast", "match"})
    PARTS = ("fuse", "match_logits", "mlm_logits", "temperature")

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        found = self.align(pairs, moment)
        masked_ids, labels = mask_words(
            pairs.ids, self.specials, pairs.sample_ids, moment, self.host.config.vocab_size, self.recipe.mask_rate
        )
        images = found.images, found.images_m
        matching = {"matching": self.matching(found, pairs, moment)} if self.matches(moment) else {}
        return {
            "contrast": found.contrast,
            **matching,
            "masked_words": self.masked_words(masked_ids, labels, pairs.mask, images, moment.alpha),
        }

    def matching(self, found: Aligned, pairs: Pairs, moment: Moment) -> Tensor:
        """Two-way cross-entropy over each pair, its image with a wrong text, and its text with a wrong image.

        A wrong image keeps the tokens that it was reduced to for its own caption.
        """
        texts, images = found.texts, found.images
        count = len(images)
        wrong_text, wrong_image = self.negatives(found.logits, pairs, moment)
        every_text = join([texts.tokens, texts.tokens, self.candidate_tokens(texts.tokens).rows(wrong_text)])
        every_image = join([images, self.candidate_tokens(images).rows(wrong_image), images])
        match = self.host.match_logits(self.host.fuse(every_text, every_image))
        return F.cross_entropy(match, (torch.arange(3 * count, device=match.device) < count).long())

    def masked_words(
        self, ids_BL: Tensor, labels_BL: Tensor, mask_BL: Tensor, images: tuple[Tokens, Tokens], alpha: float
    ) -> Tensor:
        """(1 - alpha) * cross-entropy + alpha * cross-entropy against the twin, which reads all its image tokens.

        Where alpha is 0 the twin is not asked.
        """
        host, soft = self.host, None if alpha == 0 else self.twin_words(ids_BL, mask_BL, images[1])
        logits = host.mlm_logits(host.fuse(host.encode_text(ids_BL, mask_BL), images[0]).at_inputs())
        hard = word_loss(logits, labels_BL)
        return hard if soft is None else (1 - alpha) * hard + alpha * soft_word_loss(logits, soft, labels_BL)

    @torch.no_grad()
    def twin_words(self, ids_BL: Tensor, mask_BL: Tensor, image: Tokens) -> Tensor:
        """What the twin takes for the hidden words: probabilities (B, L, V)."""
        twin = self.twin.model
        return twin.mlm_logits(twin.fuse(twin.encode_text(ids_BL, mask_BL), image).at_inputs()).softmax(-1)
