"""The sizes of a CLIP as transformers and open_clip state them beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.hosts.weights.facts import CONFIG_FILE, OPEN_CLIP_FILE, Facts
from harness.kit.errors import HarnessError

GUESSED = "activation {activation}: no config beside the file says it"
# As transformers' CLIPConfig has them where a config.json leaves them out.
HF_VISION = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 224}
HF_VISION |= {"patch_size": 32, "intermediate_size": 3072}
HF_TEXT = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "vocab_size": 49408}
HF_TEXT |= {"max_position_embeddings": 77, "intermediate_size": 2048}
# open_clip's own defaults (open_clip/model.py, CLIPVisionCfg and CLIPTextCfg).
OPEN_VISION = {"layers": 12, "width": 768, "head_width": 64, "mlp_ratio": 4.0, "patch_size": 16, "image_size": 224}
OPEN_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12, "mlp_ratio": 4.0}
# What a visual tower or text side of open_clip may be set to and stay that of the paper.
PLAIN: dict[str, Any] = {
    "ls_init_value": None,
    "no_ln_pre": False,
    "pool_type": ("tok", "argmax"),
    "final_ln_after_pool": False,
}
PLAIN |= {"attentional_pool": False, "no_causal_mask": False, "embed_cls": False, "norm_kwargs": (None, {})}


def facts_beside(configs: Mapping[str, Mapping[str, Any]], preset: Mapping[str, Any]) -> Facts:
    """What the configs beside a file state, by their names; for a file without one, what the preset assumes."""
    open_clip, transformers = configs.get(OPEN_CLIP_FILE, {}), configs.get(CONFIG_FILE, {})
    if open_clip:
        return Facts(_of_open_clip(open_clip))
    if transformers.get("model_type") == "clip":
        return Facts(_of_transformers(transformers))
    return Facts({}, (GUESSED.format(activation=preset["activation"]),))


def _of_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    vision = HF_VISION | dict(config.get("vision_config") or {})
    text = HF_TEXT | dict(config.get("text_config") or {})
    activations = {str(part.get("hidden_act", "quick_gelu")) for part in (vision, text)}
    if len(activations) > 1:
        raise HarnessError(
            f"{CONFIG_FILE}: {' and '.join(sorted(activations))} in the two towers; expected one for both"
        )
    end = text.get("eos_token_id", 2)
    return {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "width": vision["hidden_size"],
        "depth": vision["num_hidden_layers"],
        "heads": vision["num_attention_heads"],
        "mlp_ratio": _ratio(vision["intermediate_size"], vision["hidden_size"], text),
        "vision_eps": vision.get("layer_norm_eps", 1e-5),
        "text_width": text["hidden_size"],
        "text_layers": text["num_hidden_layers"],
        "text_heads": text["num_attention_heads"],
        "text_eps": text.get("layer_norm_eps", 1e-5),
        "vocab_size": text["vocab_size"],
        "text_length": text["max_position_embeddings"],
        "projection": config.get("projection_dim", 512),
        "activation": activations.pop(),
        # Configs of the first releases say 2 and mean the largest id (transformers, CLIPTextModel).
        "end_id": text["vocab_size"] - 1 if end == 2 else end,
    }


def _of_open_clip(config: Mapping[str, Any]) -> dict[str, Any]:
    model = dict(config.get("model_cfg") or {})
    vision, text = dict(model.get("vision_cfg") or {}), dict(model.get("text_cfg") or {})
    for part, names in ((vision, ("timm_model_name",)), (text, ("hf_model_name",))):
        for name in names:
            if part.get(name):
                raise HarnessError(f"{OPEN_CLIP_FILE}: {name} {part[name]}: only open_clip's own towers are CLIP here")
        for name, plain in PLAIN.items():
            if name in part and part[name] not in (plain if isinstance(plain, tuple) else (plain,)):
                raise HarnessError(f"{OPEN_CLIP_FILE}: {name} {part[name]}: not CLIP as its paper has it")
    vision, text = OPEN_VISION | vision, OPEN_TEXT | text
    if isinstance(vision["layers"], list):
        raise HarnessError(f"{OPEN_CLIP_FILE}: layers {vision['layers']}: a ResNet, expected a ViT")
    pixels = dict(config.get("preprocess_cfg") or {})
    return {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "width": vision["width"],
        "depth": vision["layers"],
        "heads": _whole("width over head_width", vision["width"], vision["head_width"]),
        "mlp_ratio": _whole("mlp_ratio", vision["mlp_ratio"]),
        "text_width": text["width"],
        "text_layers": text["layers"],
        "text_heads": text["heads"],
        "vocab_size": text["vocab_size"],
        "text_length": text["context_length"],
        "end_id": text["vocab_size"] - 1,
        "projection": model["embed_dim"],
        "activation": "quick_gelu" if model.get("quick_gelu") else "gelu",
        **({name: tuple(pixels[name]) for name in ("mean", "std") if name in pixels}),
    }


def _whole(what: str, size: float, unit: float = 1) -> int:
    if size % unit:
        raise HarnessError(f"{OPEN_CLIP_FILE}: {what} {size / unit:g}: expected a whole number, as CLIP's paper has it")
    return int(size // unit)


def _ratio(hidden: int, width: int, text: Mapping[str, Any]) -> int:
    """Width of the MLP over that of its tower, one for both."""
    if hidden % width or hidden // width * text["hidden_size"] != text["intermediate_size"]:
        raise HarnessError(f"{CONFIG_FILE}: MLPs of {hidden} and {text['intermediate_size']}: expected one whole ratio")
    return hidden // width
