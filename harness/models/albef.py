"""ALBEF: a ViT, a BERT split into a text half and a fusion half that cross-attends to the image.

Align before fuse (Li et al. 2021, arXiv 2107.07651): the class tokens of both sides are projected into one
space (image-text contrast), then the second half of the BERT reads the image tokens through cross-attention
and answers whether text and image match, or what stands at a masked position.

Shapes: B pairs, C channels, H x W pixels, N image tokens with the class token, L text tokens,
D width of both sides, P size of the shared space, V vocabulary, A answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from harness.errors import HarnessError
from harness.models.bert import TextEmbeddings, attention_mask, bert_layers, run_layers, word_transform
from harness.models.host import HostConfig, HostModel, TextBatch, timm_vision, vision_transformer
from harness.models.released import Lacking, NotAWeight, Part, Table, Tied, Translation, of_bert, translate
from harness.models.tokenizer import MASK, TextTokenizer, Tokenizer

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "image_size": 64,
        "patch_size": 8,
        "width": 96,
        "depth": 12,
        "heads": 3,
        "text_layers": 2,
        "fusion_layers": 3,
        "mlp_ratio": 4,
        "projection": 96,
        "vocab_size": 157,
        "text_length": 48,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
    "base": {
        "image_size": 256,
        "patch_size": 16,
        "width": 768,
        "depth": 12,
        "heads": 12,
        "text_layers": 6,
        "fusion_layers": 6,
        "mlp_ratio": 4,
        "projection": 256,
        "vocab_size": 30522,
        "text_length": 25,
        "positions": 512,
        "token_types": 2,
        "dropout": 0.1,
        "init_std": 0.02,
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "tokenizer": "bert-base-uncased",
    },
}


TRAINING_STATE = NotAWeight("state of pre-training")
RELEASED: Table = (
    (r"(visual_encoder|vision_proj|text_encoder|text_proj|text_decoder|cls_head)_m\..+", TRAINING_STATE),
    (r"image_queue|text_queue|queue_ptr|idx_queue|ptr_queue", TRAINING_STATE),
    (r"text_encoder\.(?:bert\.)?embeddings\.position_ids", NotAWeight("0, 1, 2, ...")),
    (r"visual_encoder\.(.+)", r"vision.\1"),
    (r"vision_proj\.(.+)", r"image_projection.\1"),
    (r"text_proj\.(.+)", r"text_projection.\1"),
    (r"temp", "temperature"),
    (r"itm_head\.(.+)", r"match_head.\1"),
    (r"text_encoder\.(?:bert\.)?embeddings\.word_embeddings\.weight", "embeddings.words.weight"),
    (r"text_encoder\.(?:bert\.)?embeddings\.position_embeddings\.weight", "embeddings.positions.weight"),
    (r"text_encoder\.(?:bert\.)?embeddings\.token_type_embeddings\.weight", "embeddings.types.weight"),
    (r"text_encoder\.(?:bert\.)?embeddings\.LayerNorm\.(.+)", r"embeddings.norm.\1"),
    (r"text_encoder\.cls\.predictions\.transform\.dense\.(.+)", r"mlm_transform.0.\1"),
    (r"text_encoder\.cls\.predictions\.transform\.LayerNorm\.(.+)", r"mlm_transform.2.\1"),
    (r"text_encoder\.cls\.predictions\.bias", "mlm_bias"),
    (r"text_encoder\.cls\.predictions\.decoder\.weight", Tied("embeddings.words.weight")),
    (r"text_encoder\.cls\.predictions\.decoder\.bias", Tied("mlm_bias")),
    (r"text_decoder\..+", NotAWeight("the released question answering's decoder, which this host has not")),
    (r"cls_head\..+", NotAWeight("the released entailment's head, which this host has not")),
)
# The names of what only some released files hold; fine-tuned ones have no "bert." in their names.
WORD_HEAD = r"mlm_transform\..+|mlm_bias"
OPTIONAL: Lacking = (
    (WORD_HEAD, "fine-tuned files hold no head for masked words"),
    (r"(image|text)_projection\..+|temperature", "files of question answering and entailment hold no contrast"),
    (r"match_head\..+", "files of question answering and entailment hold no matching head"),
)
WORD_TABLE = re.compile(r"text_encoder\.(?:bert\.)?embeddings\.word_embeddings\.weight")


class AlbefConfig(HostConfig):
    """Sizes of an ALBEF; the text side's heads and MLP channels are by default the vision side's.

    `positions`: rows of the position table, by default `text_length`; `dropout`: of the text side.
    """

    text_layers: int
    fusion_layers: int
    projection: int
    positions: int | None = None
    token_types: int = 0
    dropout: float = 0.0
    init_std: float | None = None
    text_heads: int | None = None
    text_mlp: int | None = None
    text_eps: float = 1e-12


class Albef(HostModel):
    """Vision tower, text encoder, fusion encoder and the three heads (contrast, matching, masked words)."""

    Config = AlbefConfig
    vision: VisionTransformer
    ABILITIES = frozenset({"contrast", "match", "answer"})
    OPTIONAL = OPTIONAL

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = vision_transformer(config)
        self.embeddings = TextEmbeddings(
            config.vocab_size,
            config.positions or config.text_length,
            config.width,
            types=config.token_types,
            eps=config.text_eps,
            dropout=config.dropout,
        )
        self.text = self._layers(config.text_layers, cross_attention=False)
        self.fusion = self._layers(config.fusion_layers, cross_attention=True)
        self.image_projection = nn.Linear(config.width, config.projection)
        self.text_projection = nn.Linear(config.width, config.projection)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.match_head = nn.Linear(config.width, 2)
        self.mlm_transform = word_transform(config.width, config.text_eps)
        self.mlm_bias = nn.Parameter(torch.zeros(config.vocab_size))

    @property
    def masked_questions(self) -> bool:
        return self.config.task != "vqa"

    def released(self, name: str) -> Translation:
        layer = re.fullmatch(r"text_encoder\.(?:bert\.)?encoder\.layer\.(\d+)\.(.+)", name)
        if layer is None:
            return translate(name, RELEASED)
        index = int(layer[1]) - self.config.text_layers
        return f"text.{layer[1]}.{layer[2]}" if index < 0 else f"fusion.{index}.{layer[2]}"

    @classmethod
    def sizes_for(cls, tensors: dict[str, Tensor]) -> dict[str, Any]:
        tables = [table for name, table in tensors.items() if WORD_TABLE.fullmatch(name)]
        return {"vocab_size": len(tables[0])} if tables else {}

    def part(self, name: str) -> Part:
        if name == "vision":
            return Part(timm_vision, r"vision\..+")
        if name != "text":
            return super().part(name)
        lacking = (
            (r"fusion\.\d+\.crossattention\..+", "BERT has no cross-attention"),
            (WORD_HEAD, "the file holds no head for masked words"),
        )
        return Part(
            lambda name: of_bert(name, lambda bare: self.released(f"text_encoder.{bare}")),
            rf"(embeddings|text|fusion)\..+|{WORD_HEAD}",
            lacking,
        )

    def _layers(self, count: int, cross_attention: bool) -> nn.ModuleList:
        config = self.config
        return bert_layers(
            config.width,
            config.text_heads or config.heads,
            count,
            mlp=config.text_mlp or config.width * config.mlp_ratio,
            cross_attention=cross_attention,
            eps=config.text_eps,
            dropout=config.dropout,
            std=config.init_std,
        )

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Text states (B, L, D) of token ids (B, L) with mask (B, L), true where a token stands; [:, 0] is [CLS]."""
        return run_layers(self.text, self.embeddings(ids_BL), attention_mask(mask_BL))

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Image states (B, N, D) after the final norm, class token first, with every patch.

        Under a reduction method the states come from `harness.reduction.encode` on this model's `vision` instead.
        """
        return self.vision.forward_features(images_BCHW)

    def project_image(self, image_states_BND: Tensor) -> Tensor:
        """The image's place in the shared space, (B, P), unit length, from its class token."""
        return F.normalize(self.image_projection(image_states_BND[:, 0]), dim=-1)

    def project_text(self, text_states_BLD: Tensor) -> Tensor:
        """The text's place in the shared space, (B, P), unit length, from its [CLS]."""
        return F.normalize(self.text_projection(text_states_BLD[:, 0]), dim=-1)

    def fuse(self, text_states_BLD: Tensor, text_mask_BL: Tensor, image_states_BND: Tensor) -> Tensor:
        """Fused states (B, L, D): text states that have read the image tokens (B, N, D), all of them valid."""
        return run_layers(self.fusion, text_states_BLD, attention_mask(text_mask_BL), image_states_BND)

    def match_logits(self, fused_BLD: Tensor) -> Tensor:
        """Matching logits (B, 2) from the fused [CLS]: column 1 says that text and image belong together."""
        logits_B2: Tensor = self.match_head(fused_BLD[:, 0])
        return logits_B2

    def mlm_logits(self, fused_BLD: Tensor) -> Tensor:
        """Word logits (…, V) of fused states (…, D); the output matrix is tied to the word embeddings."""
        return F.linear(self.mlm_transform(fused_BLD), self.embeddings.words.weight, self.mlm_bias)

    def embed_image(self, image_states_BND: Tensor) -> Tensor:
        return self.project_image(image_states_BND)

    def embed_text(self, texts: TextBatch) -> Tensor:
        return self.project_text(texts.states)

    def match(self, texts: TextBatch, image_states_BND: Tensor) -> Tensor:
        return self.match_logits(self.fuse(texts.states, texts.mask, image_states_BND))

    def answers(self, tokenizer: Tokenizer, answers: Sequence[str]) -> Tensor:
        """Token ids (A,) of single-word answers; HarnessError for other answers and vocabularies."""
        if not isinstance(tokenizer, TextTokenizer) or tokenizer.specials.mask != MASK:
            raise HarnessError(f"answers are ranked at [MASK], expected as token {MASK} of a vocabulary file")
        return tokenizer.answer_ids(answers)

    def answer_scores(self, texts: TextBatch, image_states_BND: Tensor, answers: Tensor) -> Tensor:
        """Score (B, A) of each single-word answer (token ids (A,)) at the questions' [MASK]."""
        fused_BLD = self.fuse(texts.states, texts.mask, image_states_BND)
        rows = torch.arange(len(fused_BLD), device=fused_BLD.device)
        masked = (texts.ids == MASK).int().argmax(1)
        return self.mlm_logits(fused_BLD[rows, masked])[:, answers]
