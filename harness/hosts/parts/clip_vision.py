"""What METER and CLIP share: transformers' CLIP tower and blocks, and their names in OpenAI's and open_clip's files."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from harness.hosts.host import HostConfig
from harness.hosts.parts.attention import TRANSFORMERS_NAME
from harness.hosts.weights.released import Split, Table

_WRAPPER = "vision_model."


def clip_vision(config: HostConfig, activation: str) -> CLIPVisionModel:
    """transformers' CLIP ViT in a host's sizes; `activation` is "quick_gelu" (OpenAI's weights) or "gelu".

    Its tensors are named alike under every release of transformers: up to 5.17 a wrapper `vision_model` stands
    between the model and its parts, which names in weight files do not show.
    """
    model = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=config.width,
            intermediate_size=config.width * config.mlp_ratio,
            num_hidden_layers=config.depth,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
            hidden_act=activation,
            layer_norm_eps=config.vision_eps,
            attn_implementation=TRANSFORMERS_NAME,
        )
    )
    parts = core(model)
    if parts is not model:
        model.register_state_dict_post_hook(_without_wrapper)
        model.register_load_state_dict_pre_hook(_with_wrapper)
    nn.init.normal_(parts.embeddings.class_embedding, std=config.width**-0.5)
    nn.init.normal_(parts.embeddings.position_embedding.weight, std=config.width**-0.5)
    draw_blocks(parts.encoder.layers, config.width)
    return model


def core(vision: CLIPVisionModel) -> Any:
    """The module that holds embeddings, encoder and norms."""
    return getattr(vision, "vision_model", vision)


def post_norm(vision: CLIPVisionModel, image_states_BND: Tensor) -> Tensor:
    """Image states (…, D) after the tower's last norm, which its loop over blocks leaves out."""
    normed: Tensor = core(vision).post_layernorm(image_states_BND)
    return normed


def draw_blocks(blocks: Any, width: int) -> None:
    """Draw the matrices of CLIP's blocks as OpenAI's program does (CLIP, clip/model.py, initialize_parameters).

    transformers draws queries and keys narrower by sqrt(2 * blocks): attention then starts flat and learns slowly.
    """
    for block in blocks:
        attention, mlp = block.self_attn, block.mlp
        into_residual = (2 * width * len(blocks)) ** -0.5
        deviations = {
            attention.q_proj: width**-0.5,
            attention.k_proj: width**-0.5,
            attention.v_proj: width**-0.5,
            attention.out_proj: into_residual,
            mlp.fc1: (2 * width) ** -0.5,
            mlp.fc2: into_residual,
        }
        for linear, std in deviations.items():
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)


def block_names(released: str, ours: str) -> Table:
    r"""Rows for the blocks of OpenAI's and open_clip's transformers, `{released}.0.attn.…`: patterns and our names."""
    block, place = rf"{released}\.(\d+)", rf"{ours}.\1"
    fused = tuple(rf"{place}.self_attn.{part}_proj.\2" for part in "qkv")
    return (
        (rf"{block}\.attn\.in_proj_(weight|bias)", Split(fused)),
        (rf"{block}\.attn\.out_proj\.(weight|bias)", rf"{place}.self_attn.out_proj.\2"),
        (rf"{block}\.ln_([12])\.(weight|bias)", rf"{place}.layer_norm\2.\3"),
        (rf"{block}\.mlp\.c_fc\.(weight|bias)", rf"{place}.mlp.fc1.\2"),
        (rf"{block}\.mlp\.c_proj\.(weight|bias)", rf"{place}.mlp.fc2.\2"),
    )


def visual_names(released: str) -> Table:
    """Rows for the visual tower of OpenAI's and open_clip's files, whose names begin with the pattern `released`."""
    return (
        (rf"{released}\.class_embedding", "vision.embeddings.class_embedding"),
        (rf"{released}\.conv1\.weight", "vision.embeddings.patch_embedding.weight"),
        (rf"{released}\.positional_embedding", "vision.embeddings.position_embedding.weight"),
        (rf"{released}\.ln_pre\.(weight|bias)", r"vision.pre_layrnorm.\1"),
        (rf"{released}\.ln_post\.(weight|bias)", r"vision.post_layernorm.\1"),
        *block_names(rf"{released}\.transformer\.resblocks", "vision.encoder.layers"),
    )


def _without_wrapper(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state if name.startswith(prefix + _WRAPPER)]:
        state[prefix + name.removeprefix(prefix + _WRAPPER)] = state.pop(name)


def _with_wrapper(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + _WRAPPER + name.removeprefix(prefix)] = state.pop(name)
