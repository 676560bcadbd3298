"""The sizes of a BLIP as its program states them (config.yaml, med_config.json), or transformers (config.json)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.hosts.weights.facts import (
    BERT_FILES,
    BERT_GUESSED,
    CONFIG_FILE,
    PROGRAM_FILES,
    WITHIN,
    Facts,
    bert_facts,
    bert_settings,
    program_settings,
    renamed,
)
from harness.kit.errors import HarnessError

FILES = (CONFIG_FILE, *PROGRAM_FILES, *BERT_FILES, WITHIN)
# models/blip.py, create_vit.
TOWERS = {"base": {"width": 768, "depth": 12, "heads": 12}, "large": {"width": 1024, "depth": 24, "heads": 16}}
# As transformers' BlipConfig has them where a config.json leaves them out.
HF_VISION: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}
HF_VISION |= {"image_size": 384, "patch_size": 16, "layer_norm_eps": 1e-5, "hidden_act": "gelu"}
HF_TEXT: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
}
HF_TEXT |= {"max_position_embeddings": 512, "layer_norm_eps": 1e-12}


def facts_beside(configs: Mapping[str, Mapping[str, Any]], preset: Mapping[str, Any]) -> Facts:
    """What the configs state, by their names."""
    if configs.get(CONFIG_FILE, {}).get("model_type") == "blip":
        return Facts(_of_transformers(configs[CONFIG_FILE]))
    program, bert = program_settings(configs), bert_settings(configs)
    sizes = renamed(program, {"image_size": "image_size"})
    kind = program.get("vit")
    if isinstance(kind, str):
        if kind not in TOWERS:
            raise HarnessError(f"config beside the weights: vit {kind!r}: expected {' or '.join(TOWERS)}")
        sizes |= TOWERS[kind]
    text = bert_facts(bert)
    _check_widths(sizes.get("width", preset["width"]), text.get("width", sizes.get("width", preset["width"])))
    text |= renamed(bert, {"text_layers": "num_hidden_layers"})
    if bert:
        return Facts(sizes | text)
    guessed = BERT_GUESSED.format(heads=preset.get("text_heads") or preset["heads"], eps=preset.get("text_eps", 1e-12))
    return Facts(sizes, (guessed,))


def _of_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    vision = HF_VISION | dict(config.get("vision_config") or {})
    bert = HF_TEXT | dict(config.get("text_config") or {})
    if vision["hidden_act"] != "gelu":
        raise HarnessError(f"{CONFIG_FILE}: hidden_act {vision['hidden_act']} of the ViT: only gelu is read here")
    if vision["intermediate_size"] % vision["hidden_size"]:
        raise HarnessError(f"{CONFIG_FILE}: MLP of {vision['intermediate_size']}: expected a whole ratio to the width")
    text = bert_facts({**bert, "encoder_hidden_size": bert["hidden_size"]})
    _check_widths(vision["hidden_size"], text["width"])
    return text | {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "depth": vision["num_hidden_layers"],
        "heads": vision["num_attention_heads"],
        "mlp_ratio": vision["intermediate_size"] // vision["hidden_size"],
        "vision_eps": vision["layer_norm_eps"],
        "text_layers": bert["num_hidden_layers"],
        "projection": config.get("image_text_hidden_size", 256),
    }


def _check_widths(image: int, text: int) -> None:
    if image != text:
        raise HarnessError(
            f"config beside the weights: {image} channels of images, {text} of text: a BLIP is read here where both "
            "have as many, as BLIP base has"
        )
