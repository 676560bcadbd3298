"""The sizes of an ALBEF as its program states them: config.yaml, the checkpoint's own config, config_bert.json."""

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


def facts_beside(configs: Mapping[str, Mapping[str, Any]], preset: Mapping[str, Any]) -> Facts:
    """What the configs state, by their names. The ViT's depth, heads and epsilon are the program's own constants."""
    program, bert = program_settings(configs), bert_settings(configs)
    sizes = renamed(program, {"image_size": "image_res", "projection": "embed_dim", "width": "vision_width"})
    text = bert_facts(bert)
    if text.get("width", sizes.get("width")) != sizes.get("width", text.get("width")):
        raise HarnessError(
            f"configs beside the weights: {text['width']} channels of text, {sizes['width']} of images: expected as "
            "many on both sides"
        )
    layers, first = bert.get("num_hidden_layers"), bert.get("fusion_layer")
    if type(layers) is int and type(first) is int:
        text |= {"text_layers": first, "fusion_layers": layers - first}
    if bert:
        return Facts(sizes | text)
    guessed = BERT_GUESSED.format(heads=preset.get("text_heads") or preset["heads"], eps=preset.get("text_eps", 1e-12))
    return Facts(sizes, (guessed,))
