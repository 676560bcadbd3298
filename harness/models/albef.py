"""ALBEF: a ViT, a BERT split into a text half and a fusion half that cross-attends to the image.

Align before fuse (Li et al. 2021, arXiv 2107.07651): the class tokens of both sides are projected into one
space (image-text contrast), then the second half of the BERT reads the image tokens through cross-attention
and answers whether text and image match, or what stands at a masked position.

Shapes: B pairs, C channels, H x W pixels, N image tokens with the class token, L text tokens,
D width of both sides, P size of the shared space, V vocabulary, A answers.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

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
}


class AlbefConfig(BaseModel):
    """Sizes of an ALBEF; `image_size` and `patch_size` in pixels, `text_length` in tokens at most."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    text_layers: int
    fusion_layers: int
    mlp_ratio: int
    projection: int
    vocab_size: int
    text_length: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class TextEmbeddings(nn.Module):
    """Token and position embeddings with BERT's norm: ids (B, L) -> (B, L, D)."""

    def __init__(self, vocab_size: int, length: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(length, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)

    def forward(self, ids_BL: Tensor) -> Tensor:
        embedded: Tensor = self.norm(self.words(ids_BL) + self.positions.weight[: ids_BL.shape[1]])
        return embedded


class Albef(nn.Module):
    """Vision tower, text encoder, fusion encoder and the three heads (contrast, matching, masked words)."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            num_classes=0,
        )
        self.embeddings = TextEmbeddings(config.vocab_size, config.text_length, config.width)
        self.text = bert_layers(config, config.text_layers, cross_attention=False)
        self.fusion = bert_layers(config, config.fusion_layers, cross_attention=True)
        self.image_projection = nn.Linear(config.width, config.projection)
        self.text_projection = nn.Linear(config.width, config.projection)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        self.match_head = nn.Linear(config.width, 2)
        self.mlm_transform = nn.Sequential(
            nn.Linear(config.width, config.width), nn.GELU(), nn.LayerNorm(config.width, eps=1e-12)
        )
        self.mlm_bias = nn.Parameter(torch.zeros(config.vocab_size))

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Text states (B, L, D) of token ids (B, L) with mask (B, L), true where a token stands; [:, 0] is [CLS]."""
        states_BLD: Tensor = self.embeddings(ids_BL)
        mask = attention_mask(mask_BL)
        for layer in self.text:
            states_BLD = layer(states_BLD, mask)
        return states_BLD

    def encode_image(self, images_BCHW: Tensor) -> Tensor:
        """Image states (B, N, D) after the final norm, class token first, with every patch.

        Under a reduction method the states come from `harness.reduction.encode` on this model's `vision` instead.
        """
        states_BND: Tensor = self.vision.forward_features(images_BCHW)
        return states_BND

    def project_image(self, image_states_BND: Tensor) -> Tensor:
        """The image's place in the shared space, (B, P), unit length, from its class token."""
        return F.normalize(self.image_projection(image_states_BND[:, 0]), dim=-1)

    def project_text(self, text_states_BLD: Tensor) -> Tensor:
        """The text's place in the shared space, (B, P), unit length, from its [CLS]."""
        return F.normalize(self.text_projection(text_states_BLD[:, 0]), dim=-1)

    def fuse(self, text_states_BLD: Tensor, text_mask_BL: Tensor, image_states_BND: Tensor) -> Tensor:
        """Fused states (B, L, D): text states that have read the image tokens (B, N, D), all of them valid."""
        states_BLD = text_states_BLD
        mask = attention_mask(text_mask_BL)
        for layer in self.fusion:
            states_BLD = layer(states_BLD, mask, image_states_BND)
        return states_BLD

    def match_logits(self, fused_BLD: Tensor) -> Tensor:
        """Matching logits (B, 2) from the fused [CLS]: column 1 says that text and image belong together."""
        logits_B2: Tensor = self.match_head(fused_BLD[:, 0])
        return logits_B2

    def mlm_logits(self, fused_BLD: Tensor) -> Tensor:
        """Word logits (…, V) of fused states (…, D); the output matrix is tied to the word embeddings."""
        return F.linear(self.mlm_transform(fused_BLD), self.embeddings.words.weight, self.mlm_bias)

    def answer_scores(self, fused_BLD: Tensor, mask_positions_B: Tensor, answer_ids_A: Tensor) -> Tensor:
        """Score (B, A) of each single-word answer (token ids (A,)) at the question's [MASK], positions (B,)."""
        rows = torch.arange(fused_BLD.shape[0], device=fused_BLD.device)
        return self.mlm_logits(fused_BLD[rows, mask_positions_B])[:, answer_ids_A]


def bert_layers(config: AlbefConfig, count: int, cross_attention: bool) -> nn.ModuleList:
    """`count` BERT layers without dropout, their weights drawn with deviation 1 / sqrt(inputs).

    BERT's own deviation of 0.02 is made for 768 channels; at 96 attention starts so flat that it hardly learns.
    transformers allows cross-attention in "decoder" layers only, whose self-attention is causal by default;
    here it stays bidirectional, as in ALBEF's fusion encoder.
    """
    bert = BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        num_attention_heads=config.heads,
        intermediate_size=config.width * config.mlp_ratio,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        is_decoder=cross_attention,
        add_cross_attention=cross_attention,
        attn_implementation="sdpa",
    )
    layers = [BertLayer(bert, layer_idx=index) for index in range(count)]
    for layer in layers:
        layer.attention.self.is_causal = False
        layer.apply(_initialise)
    return nn.ModuleList(layers)


def attention_mask(mask_BL: Tensor) -> Tensor:
    """Boolean mask (B, 1, 1, L) for fused attention: true where a key may be read."""
    return mask_BL.bool()[:, None, None, :]


def build_albef(preset: str) -> Albef:
    """An Albef of a preset with random weights, drawn from torch's current generator."""
    return Albef(AlbefConfig.model_validate(PRESETS[preset]))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5)
        nn.init.zeros_(module.bias)
