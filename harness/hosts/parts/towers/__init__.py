"""Vision towers: views of timm's, transformers' and open_clip's ViTs that a method is driven through, block by block.

`open_tower` opens a ViT, `find_tower` finds the one within a larger model.
"""

from __future__ import annotations

from collections.abc import Callable

from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from harness.hosts.parts.towers.open_clip import OpenClipTower, is_open_clip
from harness.hosts.parts.towers.timm_vit import BeitTower, EvaTower, TimmTower
from harness.hosts.parts.towers.tower import VisionTower as VisionTower
from harness.hosts.parts.towers.transformers_vit import transformers_kind
from harness.kit.errors import HarnessError

EXPECTED = (
    "timm's VisionTransformer, Eva or Beit, transformers' CLIP, BLIP, SigLIP, SigLIP 2, ViT, DeiT, DINOv2 or DINOv3 "
    "vision model, or open_clip's visual tower"
)


def open_tower(model: nn.Module) -> VisionTower:
    """The tower of a ViT; HarnessError for a model that is none of EXPECTED, or one that holds such a one inside."""
    kind = _kind(model)
    if kind is None:
        raise HarnessError(f"{type(model).__name__} is not a tower this harness can open: expected {EXPECTED}")
    return kind(model)


def find_tower(model: nn.Module) -> tuple[str, nn.Module]:
    """The ViT that a model is ("" and itself) or holds, with its name there; HarnessError for none and for several."""
    if _kind(model) is not None:
        return "", model
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        inside = any(name == outer or name.startswith(f"{outer}.") for outer, _ in found)
        if name and not inside and _kind(module) is not None:
            found.append((name, module))
    if not found:
        open_tower(model)  # says what is expected
    if len(found) != 1:
        names = ", ".join(name for name, _ in found)
        raise HarnessError(f"{type(model).__name__} holds several towers ({names}): reduce one of them")
    return found[0]


def _kind(model: nn.Module) -> Callable[[nn.Module], VisionTower] | None:
    if isinstance(model, VisionTransformer):
        return TimmTower
    if isinstance(model, Eva):
        return EvaTower
    if isinstance(model, Beit):
        return BeitTower
    if is_open_clip(model):
        return OpenClipTower
    return transformers_kind(model)
