"""What lies beside weights and says of which architecture they are: config.json, open_clip_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.kit.errors import HarnessError
from harness.kit.reading import read_json

CONFIG_FILE = "config.json"
OPEN_CLIP_FILE = "open_clip_config.json"
LIMIT_BYTES = 64 * 2**20
# The most that a size may be: the largest published ViT has 48 blocks of width 3,200.
LARGEST = {
    **dict.fromkeys(("depth", "layers", "text_layers", "fusion_layers", "num_hidden_layers"), 2**9),
    **dict.fromkeys(("width", "text_width", "hidden_size", "projection", "projection_dim", "embed_dim"), 2**14),
    **dict.fromkeys(("image_size", "patch_size", "text_length", "positions", "max_position_embeddings"), 2**14),
    **dict.fromkeys(("context_length", "heads", "num_attention_heads", "text_heads", "mlp_ratio"), 2**14),
    **dict.fromkeys(("intermediate_size", "vocab_size", "queue_size"), 2**20),
}


@dataclass(frozen=True)
class Facts:
    """Fields of a host's config as they are stated beside its weights; `guessed`: what nothing there states."""

    sizes: Mapping[str, Any] = field(default_factory=dict)
    guessed: tuple[str, ...] = ()


def config_beside(folder: Path, name: str = CONFIG_FILE) -> dict[str, Any]:
    """A JSON file of facts in a folder, ours or another program's; empty where there is none.

    HarnessError for one that is no JSON object, or states a size that no model has.
    """
    path = folder / name
    if not path.is_file():
        return {}
    stated = read_json(path, LIMIT_BYTES)
    if not isinstance(stated, dict):
        raise HarnessError(f"{path}: expected a JSON object; save or fetch the weights again")
    check_sizes(stated, str(path))
    return stated


def check_sizes(stated: Any, where: str) -> None:
    """HarnessError for sizes that no model has, wherever in a config, before anything of that size is made."""
    for name, value in stated.items() if isinstance(stated, dict) else ():
        if isinstance(value, dict):
            check_sizes(value, where)
        most = LARGEST.get(name)
        for one in value if isinstance(value, list) else [value]:
            if most is not None and isinstance(one, (int, float)) and not 0 <= one <= most:
                raise HarnessError(f"{where}: {name} {one:g}: expected at most {most:,}; save or fetch it again")
