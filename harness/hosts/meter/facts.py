"""The sizes of a METER as its program's settings state them, beside a checkpoint or within it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.hosts.weights.facts import CONFIG_FILE, PROGRAM_FILES, WITHIN, Facts, program_settings, renamed
from harness.kit.errors import HarnessError

FILES = (CONFIG_FILE, *PROGRAM_FILES, WITHIN)
GUESSED = "{heads} heads of text and co-attention: no settings beside or within the file say them"
# Ours by the released program's (meter/config.py).
NAMES = {
    "image_size": "image_size",
    "width": "hidden_size",
    "text_heads": "num_heads",
    "fusion_layers": "num_top_layer",
    "text_length": "max_text_len",
}


def facts_beside(configs: Mapping[str, Mapping[str, Any]], preset: Mapping[str, Any]) -> Facts:
    """What the settings state, by the names of their files; the tower's activation and epsilon are CLIP's own."""
    program = program_settings(configs)
    widths = {name: program[name] for name in ("input_image_embed_size", "input_text_embed_size") if name in program}
    for name, width in widths.items():
        if width != program.get("hidden_size", preset["width"]):
            raise HarnessError(f"settings beside the weights: {name} {width}: expected the width of the co-attention")
    sizes = renamed(program, NAMES)
    kind = program.get("vit")
    if isinstance(kind, str):
        patch = re.fullmatch(r"ViT-B[/-](\d+)", kind)
        if patch is None:
            raise HarnessError(f"settings beside the weights: vit {kind!r}: only CLIP's ViT-B is read here")
        sizes["patch_size"] = int(patch[1])
    if type(program.get("hidden_size")) is int and type(program.get("mlp_ratio")) is int:
        sizes["fusion_mlp"] = program["hidden_size"] * program["mlp_ratio"]
    if "text_heads" in sizes:
        return Facts(sizes)
    return Facts(sizes, (GUESSED.format(heads=preset.get("text_heads") or preset["heads"]),))
