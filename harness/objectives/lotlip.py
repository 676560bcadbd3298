"""LoTLIP: an image contrasted with a short text and several long ones, which corner tokens read beside [CLS].

Source: wuw2019/LoTLIP (mask, features and loss: parts/corner_tokens.py). Its own loader of several captions was not
released. This project's own: which texts are long (`joined` further captions of the pair, each; fewer are repeated);
where the corner tokens stand: behind the text, with the positions 1 .. C of the release, so that words keep their
places and a host reads texts without corner tokens exactly as [CLS] read them in training; and the host's own text
encoder, norm and projection in place of BERT's pooler and a linear. In a causal text encoder the special tokens are
the text's last token, which CLIP pools, and the corner tokens behind it, as in the release's second text tower. The
image side is the host's own, so every method composes; `guide` says which text a text-guided one reduces for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.pair_batch import PairBatch
from harness.hosts.host import HostModel
from harness.hosts.parts.tokenizer import Tokenizer
from harness.kit.errors import HarnessError
from harness.objectives.parts.batches import Asked, Batches, pair_batches
from harness.objectives.parts.contrast import ContrastObjective, clamp_scale, pair_scale
from harness.objectives.parts.corner_tokens import (
    causal_corner_mask,
    corner_mask,
    long_text_contrast,
    read_by,
    texts_of_images,
)
from harness.objectives.parts.objective import Batch, Losses, Moment, ObjectiveConfig


class LotlipConfig(ObjectiveConfig):
    """corners: corner tokens. long_texts: of an image, each of `joined` captions, beside the short one; 0: CLIP's loss.

    guide: the text that a method reduces an image for, the short one or the first long one.
    """

    corners: NonNegativeInt = 2
    long_texts: NonNegativeInt = 2
    joined: PositiveInt = 2
    short_weight: float = Field(default=1.0, ge=0)
    long_weight: float = Field(default=1.0, ge=0)
    guide: Literal["short", "long"] = "short"


@dataclass(frozen=True)
class LongPairs(Batch):
    """Images (B, 3, H, W) with T texts each, the short one first: ids (B, T, L), mask (B, T, L)."""

    pixels: Tensor
    ids: Tensor
    mask: Tensor


class LotlipObjective(ContrastObjective):
    """The contrast with the short text, and the sum of those with all others, each over the number of texts."""

    Config = LotlipConfig

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        width = self.host.text_stacks()[0].shape.width
        self.corners = nn.Parameter(torch.randn(self.config.corners, width) * 0.02)

    @classmethod
    def check_host(cls, host: HostModel) -> None:
        super().check_host(host)
        if not (hasattr(host, "embeddings") or hasattr(host, "words")):
            raise HarnessError(
                f"objective lotlip: {type(host).__name__} has no table of words; take albef, blip or clip"
            )

    @classmethod
    def batches(cls, asked: Asked, config: Any) -> Batches:
        return pair_batches(asked, texts=1 + config.long_texts * config.joined)

    def prepare(self) -> None:
        if "text" in self.reducer.stacks:
            raise HarnessError(
                f"objective lotlip with {type(self.reducer).__name__}: it reduces texts, in which corner tokens read "
                "every word; take a method that works in the tower alone"
            )

    def read(self, batch: PairBatch, tokenizer: Tokenizer) -> Any:
        each, joined = 1 + self.config.long_texts, self.config.joined
        said: list[str] = []
        for texts, caption in zip(batch.texts or [(one,) for one in batch.captions], batch.captions, strict=True):
            more = texts[1:] or (caption,)
            said.append(caption)
            said += [
                ". ".join(more[(at * joined + part) % len(more)] for part in range(joined)) for at in range(each - 1)
            ]
        # The release puts [SEP] in place of every ". " before it tokenises for BERT.
        end = "[SEP]" if hasattr(self.host, "embeddings") else "."
        ids, mask = tokenizer([text.replace(". ", f" {end} ") for text in said])
        return LongPairs(batch.pixels, ids.unflatten(0, (-1, each)), mask.unflatten(0, (-1, each)))

    def losses(self, pairs: LongPairs, moment: Moment) -> Losses:
        host, config, count = self.host, self.config, pairs.ids.shape[1]
        features = self.features(pairs.ids.flatten(0, 1), pairs.mask.flatten(0, 1)).unflatten(0, (-1, count))
        texts = None
        if self.reducer.needs_text:
            place = 1 if config.guide == "long" and count > 1 else 0
            texts = host.text_batch(pairs.ids[:, place], pairs.mask[:, place])
        images = host.embed_image(self.encode_images(pairs.pixels, texts)).unsqueeze(1)
        weights = config.short_weight, config.long_weight
        return long_text_contrast(
            images, texts_of_images(features), pair_scale(host), weights, long=config.long_texts > 0
        )

    def features(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Unit features (B, S, P) of texts, of [CLS] (in a causal encoder: of the last token) and of each corner."""
        host: Any = self.host
        stack, count = host.text_stacks()[0], self.config.corners
        length, device = ids_BL.shape[1], ids_BL.device
        embedded = torch.cat([self.embedded(ids_BL), self.corner_embeddings().expand(len(ids_BL), -1, -1)], dim=1)
        standing = F.pad(mask_BL.bool(), (0, count), value=True)
        if stack.shape.causal:
            return self._causal(stack, embedded, standing, ids_BL)
        special = torch.arange(length + count, device=device) >= length
        special[0] = True
        states = read_by(stack, embedded, corner_mask(standing, special))
        return self.shared(states[:, special])

    def _causal(self, stack: Any, embedded_BLD: Tensor, standing_BL: Tensor, ids_BL: Tensor) -> Tensor:
        host: Any = self.host
        length, count = ids_BL.shape[1], self.config.corners
        places = torch.arange(length + count, device=ids_BL.device)
        corner = places >= length
        end_B = (ids_BL == host.config.end_id).int().argmax(1)
        # What stands behind the last token is padding, and the last token itself no word that corners read.
        words = standing_BL & ((places < end_B[:, None]) | corner)
        mask = causal_corner_mask(words, corner)
        states = host.text_norm(read_by(stack, embedded_BLD, mask | torch.diag(~corner)))
        last = states[torch.arange(len(states), device=ids_BL.device), end_B].unsqueeze(1)
        return self.shared(torch.cat([last, states[:, length:]], dim=1))

    def embedded(self, ids_BL: Tensor) -> Tensor:
        """Words as they enter the text encoder, (B, L, D)."""
        host: Any = self.host
        if hasattr(host, "embeddings"):
            embedded: Tensor = host.embeddings(ids_BL)
            return embedded
        return host.words(ids_BL) + host.positions.weight[: ids_BL.shape[1]]

    def corner_embeddings(self) -> Tensor:
        """Corner tokens as they enter the text encoder, (1, C, D): at positions 1 .. C."""
        host: Any = self.host
        places = slice(1, 1 + self.config.corners)
        if not hasattr(host, "embeddings"):
            return (self.corners + host.positions.weight[places]).unsqueeze(0)
        table = host.embeddings
        summed = self.corners + table.positions.weight[places]
        if table.types is not None:
            summed = summed + table.types.weight[0]
        return table.dropout(table.norm(summed)).unsqueeze(0)

    def shared(self, states_BSD: Tensor) -> Tensor:
        """States in the space that texts share with images, unit length, as the host projects its text's one state."""
        host: Any = self.host
        return F.normalize(host.text_projection(states_BSD), dim=-1)

    def after_step(self) -> None:
        clamp_scale(self.host)
