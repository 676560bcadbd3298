"""What lies beside weights in their folder as JSON: our config.json, transformers' or open_clip's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.kit.errors import HarnessError

CONFIG_FILE = "config.json"
OPEN_CLIP_CONFIG = "open_clip_config.json"


def read_answers(folder: Path) -> tuple[str, ...]:
    """The closed answer list in a folder of weights, from its config.json; empty where there is none."""
    listed = read_config(folder).get("answers", ())
    return tuple(listed) if isinstance(listed, list) else ()


def read_config(folder: Path, name: str = CONFIG_FILE) -> dict[str, Any]:
    """A folder's config.json, ours or transformers', or open_clip's; empty where there is none."""
    path = folder / name
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise HarnessError(f"{path}: expected a JSON object; save or fetch the weights again") from error


def stated_activation(folder: Path) -> dict[str, str]:
    """What transformers' config or open_clip's states of a CLIP and its tensors do not show; nothing for others."""
    theirs = read_config(folder, OPEN_CLIP_CONFIG).get("model_cfg")
    if isinstance(theirs, dict):
        return {"activation": "quick_gelu" if theirs.get("quick_gelu", False) else "gelu"}
    config = read_config(folder)
    if config.get("model_type") != "clip":
        return {}
    return {"activation": config.get("vision_config", {}).get("hidden_act", "quick_gelu")}
