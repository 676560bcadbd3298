"""What every host model offers: a vision tower, a text side, and the questions one can ask of the two.

Shapes: B pairs, N image tokens with the class token, L text tokens, D width, P size of the shared space, A answers.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from harness.errors import HarnessError
from harness.models.released import Lacking, NotAWeight, Part, Translation
from harness.models.tokenizer import Tokenizer
from harness.reduction import Guide


class HostConfig(BaseModel):
    """Sizes that every host has; `image_size` and `patch_size` in pixels, `text_length` in tokens at most.

    `tokenizer`: a name in the Hugging Face cache, or None where a vocabulary comes with the weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    mlp_ratio: int = 4
    vision_eps: float = 1e-6
    vocab_size: int
    text_length: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    tokenizer: str | None = None


@dataclass(frozen=True)
class TextBatch:
    """Texts as a host reads them: ids (B, L), mask (B, L) true where a token stands, states (B, L, D)."""

    ids: Tensor
    mask: Tensor
    states: Tensor

    def rows(self, index: Tensor) -> TextBatch:
        """Some texts, cut to the longest of them; padding stands at the end."""
        mask = self.mask[index]
        length = int(mask.sum(1).max())
        return TextBatch(self.ids[index, :length], mask[:, :length], self.states[index, :length])

    def select(self, index: Tensor) -> TextBatch:
        """Some texts at the batch's own length, without looking at the data."""
        return TextBatch(self.ids[index], self.mask[index], self.states[index])

    def with_states(self, states_BLD: Tensor) -> TextBatch:
        return replace(self, states=states_BLD)


class HostModel(nn.Module, ABC):
    """Base class. `ABILITIES` names which of the questions below a host can be asked.

    `MASKED_QUESTIONS`: a question is read with [MASK] where its answer would stand. `EXTRA_WORDS`: words that a
    vocabulary must hold beside BERT's. `PAPER_SETTINGS`: by method, the settings of its paper for this host, where they
    differ from the method's own defaults. `OPTIONAL`: which of its tensors a released file may lack (patterns of our
    names, each lacking as a whole), and why.
    """

    KIND: ClassVar[str] = "host"
    Config: ClassVar[type[HostConfig]]
    ABILITIES: ClassVar[frozenset[str]] = frozenset()
    EXTRA_WORDS: ClassVar[tuple[str, ...]] = ()
    MASKED_QUESTIONS: ClassVar[bool] = False
    PAPER_SETTINGS: ClassVar[dict[str, dict[str, Any]]] = {}
    OPTIONAL: ClassVar[Lacking] = ()
    vision: nn.Module
    config: Any

    @classmethod
    def vocabulary_sizes(cls, vocabulary: dict[str, int]) -> dict[str, int]:
        """The fields of the config that a vocabulary decides."""
        return {"vocab_size": len(vocabulary)}

    @abstractmethod
    def released(self, name: str) -> Translation:
        """What a tensor of the released program is here; None for a name of another architecture."""

    @classmethod
    def sizes_for(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """The fields of the config that a released program's tensors decide, by their names there."""
        return {}

    def lacking(self) -> Lacking:
        """Which of this model's tensors a released file may lack, and why."""
        return self.OPTIONAL

    def filled(self, missing: Sequence[str]) -> None:
        """Derive what starts from other tensors; called after a released file was loaded, with what it lacked."""

    def on_differing_double(self) -> str:
        """What to add to the refusal of a file in which the double of a tied tensor differs; begins with "; "."""
        return ""

    def part(self, name: str) -> Part:
        """The part "vision" or "text", as files of other models initialise it; HarnessError for one that none can."""
        raise HarnessError(f"{type(self).__name__} cannot take its part {name!r} from another model's weights")

    @abstractmethod
    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Text states (B, L, D) from the text side alone; [:, 0] stands for the whole text."""

    @abstractmethod
    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Image states (B, N, D) with every patch, class token first.

        Under a reduction method the states come from `harness.reduction.encode` on this model's `vision` instead.
        """

    def text_batch(self, ids_BL: Tensor, mask_BL: Tensor) -> TextBatch:
        """Texts with their states."""
        return TextBatch(ids_BL, mask_BL, self.encode_text(ids_BL, mask_BL))

    def guide(self, texts: TextBatch) -> Guide:
        """What the text side offers to a text-guided method, without gradient."""
        return Guide(texts.states[:, 0].detach(), texts.states.detach(), texts.mask)

    def embed_image(self, image_states_BND: Tensor) -> Tensor:
        """The image's place in the space it shares with texts, (B, P), unit length."""
        raise self.cannot("contrast")

    def embed_text(self, texts: TextBatch) -> Tensor:
        """The text's place in the space it shares with images, (B, P), unit length."""
        raise self.cannot("contrast")

    def match(self, texts: TextBatch, image_states_BND: Tensor) -> Tensor:
        """Logits (B, 2): column 1 says that text and image belong together."""
        raise self.cannot("match")

    def answers(self, tokenizer: Tokenizer, answers: Sequence[str]) -> Any:
        """A closed list of answers as `answer_scores` takes it."""
        raise self.cannot("answer")

    def answer_scores(self, texts: TextBatch, image_states_BND: Tensor, answers: Any) -> Tensor:
        """Score (B, A) of each answer to the questions `texts`."""
        raise self.cannot("answer")

    def cannot(self, ability: str) -> HarnessError:
        """The error of a host that is asked what it cannot do."""
        able = ", ".join(sorted(self.ABILITIES)) or "nothing"
        return HarnessError(f"{type(self).__name__} cannot {ability}: it can {able}")


def vision_transformer(config: HostConfig) -> VisionTransformer:
    """The ViT of ALBEF and BLIP: timm's, with a class token and a final norm on all tokens."""
    return VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        num_classes=0,
        norm_layer=partial(nn.LayerNorm, eps=config.vision_eps),
    )


def timm_vision(name: str) -> Translation:
    """What a tensor of timm's ViT or of DeiT is in the tower of `vision_transformer`."""
    if name.startswith("head."):
        return NotAWeight("the classifier of the pre-trained ViT")
    known = (
        r"cls_token|pos_embed|(patch_embed\.proj|norm|blocks\.\d+\.(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc[12]))\.\w+"
    )
    return f"vision.{name}" if re.fullmatch(known, name) else None
