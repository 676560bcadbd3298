"""EPIC: a language model replaces the words that an image makes salient; each word fits the image or does not.

Source: Zhu et al. 2023 (CVPR, arXiv 2211.15398), of which no code was released; from the abstract come the three
steps: mask the words most salient to the image, let a language model fill them in, decide for every word whether it is
consistent with the image. This project's own: saliency (softmax over a text's words of how alike they are to the
image's class token in the space that both share, without gradient), the share that is replaced, the language model (a
word head on the host's text encoder, which learns by its own loss and passes no gradient on), the linear decision and
all weights. For hosts that fuse words with image tokens. With a method the words read what it left of the image: a
word whose patches were pruned may look inconsistent although the image shows it, which `consistency` measures.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harness.hosts.albef.model import Albef
from harness.hosts.host import TextBatch
from harness.hosts.parts.answers import IGNORED
from harness.hosts.parts.bert import word_transform
from harness.kit import distributed
from harness.kit.draws import categorical, uniform
from harness.kit.errors import HarnessError
from harness.objectives.parts.objective import Losses, Moment, Objective, ObjectiveConfig, Pairs, word_loss
from harness.reduction import Tokens, take

# Purpose of draws, apart from those of parts/objective.py and the masks of patches.
REPLACEMENTS = 50


class EpicConfig(ObjectiveConfig):
    """rate: share of a text's words that are replaced, at least one. temperature: of saliency's softmax.

    weight: of the consistency of words; language_weight: of the language model's own loss.
    """

    rate: float = Field(default=0.3, gt=0, le=1)
    temperature: float = Field(default=0.07, gt=0)
    weight: float = Field(default=1.0, gt=0)
    language_weight: float = Field(default=1.0, gt=0)


class EpicObjective(Objective[Albef]):
    """Consistency of every word, and the language model's loss on the words that are masked."""

    NEEDS = frozenset({"contrast"})
    PARTS = ("fuse", "mlm_logits")
    Config = EpicConfig
    LEAVES_UNUSED = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        config = self.host.config
        self.word_head = nn.Sequential(
            *word_transform(config.width, config.text_eps), nn.Linear(config.width, config.vocab_size)
        )
        self.decision = nn.Linear(config.width, 1)

    def prepare(self) -> None:
        if self.specials.mask is None:
            raise HarnessError("objective epic: the vocabulary has no mask token: words cannot be masked; name another")

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        texts = self.host.text_batch(pairs.ids, pairs.mask)
        images = self.encode_images(pairs.pixels, texts)
        chosen = self.salient(texts, images)
        logits = self.language(pairs, chosen)
        replaced = self.replaced(pairs, chosen, logits.detach(), moment)
        decided, words = self.decided(replaced, pairs, images), self.words(pairs.ids)
        right = (replaced == pairs.ids).to(decided.dtype)
        each = F.binary_cross_entropy_with_logits(decided, right, reduction="none")
        labels = pairs.ids.masked_fill(~chosen, IGNORED)
        return {
            "consistency": self.config.weight * distributed.global_mean((each * words).sum(), words.sum()),
            "language": self.config.language_weight * word_loss(logits, labels),
        }

    def words(self, ids_BL: Tensor) -> Tensor:
        """Where ordinary words stand, (B, L)."""
        return torch.stack([ids_BL != token for token in self.specials.never_masked]).all(0)

    @torch.no_grad()
    def salient(self, texts: TextBatch, images: Tokens) -> Tensor:
        """Which words of each text are replaced, (B, L): the most salient ones."""
        saliency, words = self.saliency(texts, images), self.words(texts.ids)
        place = saliency.masked_fill(~words, -1).sort(dim=1, descending=True, stable=True).indices.argsort(dim=1)
        count = (self.config.rate * words.sum(dim=1)).ceil()
        return words & (place < count[:, None])

    @torch.no_grad()
    def saliency(self, texts: TextBatch, images: Tokens) -> Tensor:
        """The image's attention to the words of its text, (B, L), each row a softmax over them."""
        states = texts.tokens.at_inputs()
        each = TextBatch(
            texts.ids.flatten()[:, None], texts.mask.flatten()[:, None], Tokens(states.flatten(0, 1)[:, None])
        )
        shared = self.host.embed_text(each).unflatten(0, states.shape[:2])
        alike = (shared @ self.host.embed_image(images).unsqueeze(2)).squeeze(2) / self.config.temperature
        return alike.masked_fill(~self.words(texts.ids), -torch.finfo(alike.dtype).max).softmax(dim=1)

    def language(self, pairs: Pairs, chosen_BL: Tensor) -> Tensor:
        """Word logits (B, L, V) of texts whose chosen words are masked, read without the image."""
        assert self.specials.mask is not None
        masked = pairs.ids.masked_fill(chosen_BL, self.specials.mask)
        with torch.no_grad():
            states = self.host.encode_text(masked, pairs.mask).at_inputs()
        logits_BLV: Tensor = self.word_head(states)
        return logits_BLV

    @torch.no_grad()
    def replaced(self, pairs: Pairs, chosen_BL: Tensor, logits_BLV: Tensor, moment: Moment) -> Tensor:
        """ids (B, L) in which each chosen word is one that the language model draws, never a special one."""
        length = pairs.ids.shape[1]
        # As many places of every text as any may have chosen, so that shapes do not depend on the data.
        most = math.ceil(self.config.rate * length)
        place = chosen_BL.int().sort(dim=1, descending=True, stable=True).indices[:, :most]
        logits = take(logits_BLV, place)
        for special in {*self.specials.never_masked, self.specials.mask, self.specials.unknown}:
            logits[..., special] = -torch.inf
        drawn = uniform(pairs.sample_ids, length, moment.seed, REPLACEMENTS, moment.step).gather(1, place)
        words = categorical(logits.flatten(0, 1).softmax(dim=1), drawn.flatten()).view(place.shape)
        kept = pairs.ids.gather(1, place)
        return pairs.ids.scatter(1, place, torch.where(chosen_BL.gather(1, place), words, kept))

    def decided(self, ids_BL: Tensor, pairs: Pairs, images: Tokens) -> Tensor:
        """Logits (B, L) of each word of texts: above zero, it fits the image."""
        fused = self.host.fuse(self.host.encode_text(ids_BL, pairs.mask), images)
        logits: Tensor = self.decision(fused.at_inputs()).squeeze(-1)
        return logits
