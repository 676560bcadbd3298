"""Tiny ViTs of every family that can be reduced, with random weights large enough that no token looks like another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import timm
import torch
import transformers
from torch import Tensor, nn

SIDE, PATCHES = 64, 64
SIZES = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 12,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 8,
}
DINO = {name: value for name, value in SIZES.items() if name != "intermediate_size"} | {"mlp_ratio": 2}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 50,
    "max_position_embeddings": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TIMM = {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "num_heads": 2, "depth": 12}


def of(kind: str, config: str, **options: object) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return getattr(transformers, kind)(getattr(transformers, config)(**options))

    return build


def of_timm(name: str, **options: object) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, **{**TIMM, "num_classes": 5, **options})


class LayerScale(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.gamma


class ResidualAttentionBlock(nn.Module):
    """A block as open_clip names its parts (open_clip/transformer.py)."""

    def __init__(self, width: int, heads: int, scaled: bool) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        hidden = [("c_fc", nn.Linear(width, 2 * width)), ("gelu", nn.GELU()), ("c_proj", nn.Linear(2 * width, width))]
        self.mlp = nn.Sequential(OrderedDict(hidden))
        self.ls_1, self.ls_2 = (LayerScale(width) if scaled else nn.Identity() for _ in range(2))

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.ln_1(tokens)
        tokens = tokens + self.ls_1(self.attn(normed, normed, normed, need_weights=False)[0])
        return tokens + self.ls_2(self.mlp(self.ln_2(tokens)))


class VisualTower(nn.Module):
    """What open_clip's VisionTransformer holds and computes."""

    def __init__(self, pool_type: str = "tok", late: bool = False, scaled: bool = False, both: bool = False) -> None:
        super().__init__()
        self.image_size, self.grid_size = (SIDE, SIDE), (8, 8)
        self.pool_type, self.final_ln_after_pool, self.output_tokens = pool_type, late, both
        self.conv1 = nn.Conv2d(3, 24, 8, 8, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(24))
        self.positional_embedding = nn.Parameter(torch.randn(PATCHES + 1, 24))
        self.ln_pre, self.ln_post = nn.LayerNorm(24), nn.LayerNorm(24)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(ResidualAttentionBlock(24, 2, scaled) for _ in range(12))
        self.proj = nn.Parameter(torch.randn(24, 16))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        tokens = self.ln_pre(torch.cat([first, patches], dim=1) + self.positional_embedding)
        for block in self.transformer.resblocks:
            tokens = block(tokens)
        tokens = tokens if self.final_ln_after_pool else self.ln_post(tokens)
        pooled = tokens[:, 1:].mean(1) if self.pool_type == "avg" else tokens[:, 0]
        pooled = (self.ln_post(pooled) if self.final_ln_after_pool else pooled) @ self.proj
        return (pooled, tokens[:, 1:]) if self.output_tokens else pooled


BARE: dict[str, Callable[[], nn.Module]] = {
    "CLIP": of("CLIPVisionModel", "CLIPVisionConfig", **SIZES),
    "BLIP": of("BlipVisionModel", "BlipVisionConfig", **SIZES),
    "SigLIP": of("SiglipVisionModel", "SiglipVisionConfig", **SIZES),
    "SigLIP without head": of("SiglipVisionModel", "SiglipVisionConfig", **SIZES, vision_use_head=False),
    "ViT": of("ViTModel", "ViTConfig", **SIZES),
    "DeiT": of("DeiTModel", "DeiTConfig", **SIZES),
    "DINOv2": of("Dinov2Model", "Dinov2Config", **DINO),
    "DINOv2 with SwiGLU": of("Dinov2Model", "Dinov2Config", **DINO, use_swiglu_ffn=True),
    "DINOv2 with registers": of("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", **DINO, num_register_tokens=2),
    "DINOv3": of("DINOv3ViTModel", "DINOv3ViTConfig", **SIZES, num_register_tokens=3),
    "DINOv3 with gate": of("DINOv3ViTModel", "DINOv3ViTConfig", **SIZES, use_gated_mlp=True),
    "timm ViT": of_timm("vit_tiny_patch16_224"),
    "timm SigLIP": of_timm("vit_base_patch16_siglip_224"),
    "timm EVA": of_timm("eva_large_patch14_196"),
    "timm EVA-02": of_timm("eva02_tiny_patch14_224", mlp_ratio=2),
    "timm EVA-02 unfused": of_timm("eva02_large_patch14_224", mlp_ratio=2),
    "timm DINOv3": of_timm("vit_small_patch16_dinov3"),
    "timm RoPE mixed": of_timm("vit_small_patch16_rope_mixed_224"),
    "timm Perception Encoder": of_timm("vit_pe_core_tiny_patch16_384"),
    "timm BEiT": of_timm("beit_base_patch16_224"),
    "timm BEiT shared": of_timm("beit_base_patch16_224", use_rel_pos_bias=False, use_shared_rel_pos_bias=True),
    "open_clip": VisualTower,
    "open_clip, mean": lambda: VisualTower("avg", late=True, scaled=True),
    "open_clip, tokens": lambda: VisualTower(both=True),
}
WITHIN: dict[str, Callable[[], nn.Module]] = {
    "CLIP with projection": of("CLIPVisionModelWithProjection", "CLIPVisionConfig", **SIZES, projection_dim=16),
    "CLIP classifier": of("CLIPForImageClassification", "CLIPConfig", vision_config=SIZES, text_config=TEXT),
    "SigLIP classifier": of("SiglipForImageClassification", "SiglipConfig", vision_config=SIZES, text_config=TEXT),
    "ViT classifier": of("ViTForImageClassification", "ViTConfig", **SIZES, num_labels=5),
    "DeiT classifier": of("DeiTForImageClassification", "DeiTConfig", **SIZES, num_labels=5),
    "DINOv2 classifier": of("Dinov2ForImageClassification", "Dinov2Config", **DINO, num_labels=5),
    "DINOv2 with registers classifier": of(
        "Dinov2WithRegistersForImageClassification", "Dinov2WithRegistersConfig", **DINO, num_labels=5
    ),
}


def drawn(build: Callable[[], nn.Module]) -> nn.Module:
    """A model in evaluation mode whose matrices are drawn wider than for training."""
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
            elif name.rpartition(".")[2] in ("gamma_1", "gamma_2", "lambda1", "gamma"):
                parameter.fill_(1.0)  # layer scales begin so small that blocks do nothing
    return model


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def tensors_of(output: object) -> list[Tensor]:
    """The tensors of what a model returns."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if hasattr(output, "values") else output
    return [value for value in values if isinstance(value, Tensor)]
