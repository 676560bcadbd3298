"""Tiny ViTs of every family that can be reduced, with random weights large enough that no token looks like another."""

from __future__ import annotations

from collections.abc import Callable

import timm
import torch
import transformers
from open_clip.transformer import VisionTransformer
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


def of_open_clip(**options: object) -> Callable[[], nn.Module]:
    sizes = {"width": 24, "layers": 12, "heads": 2, "mlp_ratio": 2.0, "output_dim": 16}
    return lambda: VisionTransformer(SIDE, 8, **{**sizes, **options})


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
    "open_clip": of_open_clip(),
    "open_clip, mean": of_open_clip(pool_type="avg", final_ln_after_pool=True, ls_init_value=1.0),
    "open_clip, tokens": of_open_clip(output_tokens=True),
    "open_clip, sines": of_open_clip(pos_embed_type="sin_cos_2d", no_ln_pre=True),
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
