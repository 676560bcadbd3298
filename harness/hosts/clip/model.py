"""CLIP: a ViT and a causal text transformer whose pooled tokens meet in one space; no tokens are fused.

Radford et al. 2021 (arXiv 2103.00020); ELIP's experiment trains open_clip's ViT-S/16 ("small"), "base" is OpenAI's
ViT-B/16. Shapes: B images or texts, C channels, H x W pixels, N image tokens with the class token, L text tokens,
D vision width, T text width, P size of the shared space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from harness.hosts.clip.facts import facts_beside
from harness.hosts.clip.recipes import RECIPES
from harness.hosts.host import HostConfig, HostModel, TextBatch
from harness.hosts.parts.attention import TRANSFORMERS_NAME
from harness.hosts.parts.clip_vision import block_names, clip_vision, core, draw_blocks, post_norm, visual_names
from harness.hosts.parts.pixels import CLIP_MEAN, CLIP_STD
from harness.hosts.parts.presets import TINY
from harness.hosts.parts.shared_space import Projection, clip_space
from harness.hosts.parts.text_stacks import ClipTextStack, through
from harness.hosts.weights.facts import CONFIG_FILE, OPEN_CLIP_FILE, Facts
from harness.hosts.weights.released import Lacking, NotAWeight, Part, Split, Table, Translation, Transposed, translate
from harness.reduction import Guide, Stack, Tokens
from harness.reduction.guide import Offer

PRESETS: dict[str, dict[str, Any]] = {
    "tiny": TINY
    | {
        "depth": 12,
        "activation": "gelu",
        "text_width": 96,
        "text_layers": 3,
        "text_heads": 3,
        "projection": 96,
        "vocab_size": 157,
        "end_id": 3,
    },
    "small": {
        "image_size": 224,
        "patch_size": 16,
        "width": 384,
        "depth": 12,
        "heads": 6,
        "activation": "gelu",
        "text_width": 384,
        "text_layers": 12,
        "text_heads": 6,
        "projection": 384,
        "vocab_size": 49408,
        "text_length": 77,
        "end_id": 49407,
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        "tokenizer": "openai/clip-vit-base-patch16",
    },
    "base": {
        "image_size": 224,
        "patch_size": 16,
        "width": 768,
        "depth": 12,
        "heads": 12,
        "activation": "quick_gelu",
        "text_width": 512,
        "text_layers": 12,
        "text_heads": 8,
        "projection": 512,
        "vocab_size": 49408,
        "text_length": 77,
        "end_id": 49407,
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        "tokenizer": "openai/clip-vit-base-patch16",
    },
}

SIZES = NotAWeight("a size of the model")
POSITION_IDS = NotAWeight("0, 1, 2, ...")
RELEASED: Table = (
    # OpenAI's and open_clip's names.
    (r"visual\.proj", Transposed("image_projection.weight")),
    *visual_names("visual"),
    *block_names(r"transformer\.resblocks", "text"),
    (r"token_embedding\.weight", "words.weight"),
    (r"positional_embedding", "positions.weight"),
    (r"ln_final\.(weight|bias)", r"text_norm.\1"),
    (r"text_projection", Transposed("text_projection.weight")),
    (r"logit_scale", "logit_scale"),
    (r"attn_mask", NotAWeight("the causal mask")),
    (r"input_resolution|context_length|vocab_size", SIZES),
    # transformers' names.
    (r"(vision|text)_model\.embeddings\.position_ids", POSITION_IDS),
    (r"vision_model\.((embeddings|pre_layrnorm|encoder|post_layernorm)\..+)", r"vision.\1"),
    (r"visual_projection\.weight", "image_projection.weight"),
    (r"text_model\.embeddings\.token_embedding\.weight", "words.weight"),
    (r"text_model\.embeddings\.position_embedding\.weight", "positions.weight"),
    (r"text_model\.encoder\.layers\.(.+)", r"text.\1"),
    (r"text_model\.final_layer_norm\.(weight|bias)", r"text_norm.\1"),
    (r"text_projection\.weight", "text_projection.weight"),
)


class ClipConfig(HostConfig):
    """Sizes of a CLIP; `end_id` is the token at which a text is pooled, `activation` "quick_gelu" or "gelu"."""

    vision_eps: float = 1e-5
    activation: str
    text_width: int
    text_layers: int
    text_heads: int
    text_eps: float = 1e-5
    projection: int
    end_id: int


class Clip(HostModel):
    """Vision tower, causal text encoder, two projections and the contrast's scale.

    Image states are the tower's tokens before its last norm: `normed` and `image_feature` apply it.
    """

    Config = ClipConfig
    FACT_FILES = (CONFIG_FILE, OPEN_CLIP_FILE)
    RECIPES = RECIPES
    TEXT_SIDE = r"(words|positions|text|text_norm)\..+"
    PAPER_SETTINGS: ClassVar[dict[str, dict[str, Any]]] = {
        name: {"count_class_token": True} for name in ("elip", "elip_lite")
    }

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = clip_vision(config, config.activation)
        self.words = nn.Embedding(config.vocab_size, config.text_width)
        self.positions = nn.Embedding(config.text_length, config.text_width)
        self.text = text_blocks(config)
        self.text_norm = nn.LayerNorm(config.text_width, eps=config.text_eps)
        self.image_projection = nn.Linear(config.width, config.projection, bias=False)
        self.text_projection = nn.Linear(config.text_width, config.projection, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.01)
        nn.init.normal_(self.image_projection.weight, std=config.width**-0.5)
        nn.init.normal_(self.text_projection.weight, std=config.text_width**-0.5)

    def heads(self) -> dict[str, str]:
        return {"contrast": r".+"}

    @classmethod
    def vocabulary_sizes(cls, vocabulary: dict[str, int]) -> dict[str, int]:
        return {"vocab_size": len(vocabulary), "end_id": vocabulary["[SEP]"]}

    @classmethod
    def stated_facts(cls, name: str, configs: Mapping[str, Mapping[str, Any]]) -> Facts:
        return facts_beside(configs, cls.preset(name))

    def released(self, name: str) -> Translation:
        return translate(name, RELEASED)

    def lacking(self) -> Lacking:
        """A whole CLIP lacks nothing; one whose text side has no blocks is a tower alone."""
        if self.config.text_layers:
            return ()
        return ((r"(words|positions|text_norm|text_projection)\..+|logit_scale", "a file of the visual tower alone"),)

    def part(self, name: str) -> Part:
        return Part(self._of_tower, r"vision\..+") if name == "vision" else super().part(name)

    def _of_tower(self, name: str) -> Translation:
        target = self.released(name)
        places = target.names if isinstance(target, Split) else (target,)
        inside = all(isinstance(place, str) and place.startswith("vision.") for place in places)
        return target if target is None or inside else NotAWeight("not of the visual tower")

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tokens:
        """Text tokens after the final norm; a token has read itself and what stands before it."""
        embedded_BLT = self.words(ids_BL) + self.positions.weight[: ids_BL.shape[1]]
        read = through(self._text_stack(), Tokens(embedded_BLT, mask_BL.bool()))
        return read.with_states(self.text_norm(read.states))

    def encode_image(self, images_BCHW: Tensor) -> Tokens:
        """Image tokens before the tower's last norm, class token first, with every patch."""
        return Tokens(self.vision(images_BCHW).last_hidden_state)

    def text_stacks(self) -> Sequence[Stack]:
        return () if not self.config.text_layers else (self._text_stack(),)

    def _text_stack(self) -> Stack:
        return ClipTextStack(self.text, self.config.text_heads, self.config.text_width)

    def normed(self, image: Tokens) -> Tensor:
        return post_norm(self.vision, image.states)

    def image_feature(self, image: Tokens) -> Tensor:
        """The image's place in the shared space, (B, P), of any length, from its class token."""
        feature_BP: Tensor = self.image_projection(post_norm(self.vision, image.states[:, 0]))
        return feature_BP

    def text_feature(self, texts: TextBatch) -> Tensor:
        """The text's place in the shared space, (B, P), of any length, from its first end-of-text token."""
        feature_BP: Tensor = self.text_projection(self.text_state(texts))
        return feature_BP

    def text_state(self, texts: TextBatch) -> Tensor:
        """That of the first end-of-text token."""
        end_B = (texts.ids == self.config.end_id).int().argmax(1)
        rows = torch.arange(len(end_B), device=end_B.device)
        return texts.tokens.at_inputs()[rows, end_B]

    def embed_image(self, image: Tokens) -> Tensor:
        return F.normalize(self.image_feature(image), dim=-1)

    def embed_text(self, texts: TextBatch) -> Tensor:
        return F.normalize(self.text_feature(texts), dim=-1)

    def guide(self, texts: TextBatch) -> Guide:
        """The text's unit feature, taken back through the image's projection to the vision width, without gradient.

        ELIP, released program, CLIP/src/open_clip. The states of single words have no place there and are left out.
        """
        feature = self.embed_text(texts).detach()
        text_cls, shared = self.to_vision(feature).detach(), self.shared_space()
        return Guide(text_cls, notes=texts.tokens.notes, shared=shared, feature=feature)

    def offer(self) -> Offer:
        return Offer(0, self.shared_size(), feature=True)

    def shared_space(self) -> tuple[Projection, Projection]:
        norm, image = core(self.vision).pre_layrnorm, self.image_projection
        return clip_space(norm, image.weight, self.text_norm, self.text_projection.weight)

    def to_vision(self, feature_BP: Tensor) -> Tensor:
        """Features (B, P) through the transposed image projection: (B, D)."""
        return feature_BP @ self.image_projection.weight

    def scale(self) -> Tensor:
        """The factor on cosine similarities before the contrast's softmax, a scalar."""
        return self.logit_scale.exp()

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Keep the factor between 1 and 100, as training does after every step (paper section 2.5)."""
        self.logit_scale.clamp_(0, math.log(100))


def text_blocks(config: ClipConfig) -> nn.ModuleList:
    """The text side's blocks, called as block(states, mask).

    They are not wrapped in transformers' CLIPTextModel: for an attention that it does not know it makes no causal
    mask at all.
    """
    sizes = CLIPTextConfig(
        hidden_size=config.text_width,
        intermediate_size=config.text_width * config.mlp_ratio,
        num_hidden_layers=config.text_layers,
        num_attention_heads=config.text_heads,
        hidden_act=config.activation,
        layer_norm_eps=config.text_eps,
        attn_implementation=TRANSFORMERS_NAME,
    )
    blocks = nn.ModuleList(CLIPEncoderLayer(sizes) for _ in range(config.text_layers))
    draw_blocks(blocks, config.text_width)
    return blocks
