"""A plain ViT as a host that has features and no text side: `timm/NAME`, `transformers/FOLDER`.

Shapes: B images, N tokens, D channels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.hosts.host import HostConfig, HostModel
from harness.hosts.parts.towers import open_tower
from harness.hosts.tower.sources import TRANSFORMERS, build_tower, facts_of, saved_tensors
from harness.hosts.weights.facts import CONFIG_FILE
from harness.hosts.weights.released import Lacking, NotAWeight, Translation
from harness.kit.errors import HarnessError
from harness.reduction import Stack, Tokens, encode
from harness.reduction.budget import make_reducer

# Parts of a saved model that features do without: classifiers, text sides, decoders, projections.
BEYOND = re.compile(
    r"(head|head_dist|classifier|cls_classifier|distillation_classifier|text_model|text_projection|visual_projection"
    r"|logit_scale|logit_bias|decoder|proj|mask_token|embeddings\.mask_token|fc_norm_unused)(\..+)?"
    r"|(.+\.)?(position_ids|k_bias|relative_position_index|rope\..+|inv_freq)"
)


class TowerConfig(HostConfig):
    """source: timm/NAME or transformers/FOLDER."""

    source: str


class TowerHost(HostModel):
    """The ViT, and what it makes of an image."""

    Config = TowerConfig

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        vision: Any = build_tower(config.source, config.image_size)
        if hasattr(vision, "reset_classifier"):
            vision.reset_classifier(0)
        self.vision = vision
        self.names = frozenset(self.vision.state_dict())

    @classmethod
    def preset(cls, name: str) -> dict[str, Any]:
        return facts_of(name)

    @classmethod
    def read_released(cls, name: str, path: Path) -> dict[str, Tensor]:
        beside = name.startswith(TRANSFORMERS) and (path.parent / CONFIG_FILE).is_file()
        return saved_tensors(path.parent) if beside else super().read_released(name, path)

    def lacking(self) -> Lacking:
        return ((r"vision\.pooler\..+", "the file holds no pooler: the class token stands for the image"),)

    def filled(self, missing: Sequence[str]) -> None:
        if any(name.startswith("vision.pooler.") for name in missing):
            setattr(self.vision, "pooler", None)  # noqa: B010 - of transformers' ViTs alone

    def heads(self) -> dict[str, str]:
        return {}

    def text_stacks(self) -> Sequence[Stack]:
        return ()

    def released(self, name: str) -> Translation:
        """A tensor of the ViT by its own name, or within a larger model (`vit.…`, `vision_model.…`)."""
        inner = name
        while inner not in self.names:
            if BEYOND.fullmatch(inner):
                return NotAWeight("nothing that features are made of")
            _, dot, inner = inner.partition(".")
            if not dot:
                return None
        return f"vision.{inner}"

    def encode_text(self, ids_BL: Tensor, mask_BL: Tensor) -> Tokens:
        raise HarnessError(f"{self.config.source} has no text side: measure its features alone, --tasks features")

    def encode_image(self, images_BCHW: Tensor) -> Tokens:
        tower = open_tower(self.vision)
        return encode(tower, make_reducer("dense", tower.shape), images_BCHW)
