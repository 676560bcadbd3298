"""What guides a text-guided method in a CLIP of one's own, of transformers or open_clip: as the CLIP host guides it.

Shapes: B texts, P the shared space, D the tower's width.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from harness.hosts.parts.shared_space import clip_space
from harness.hosts.parts.towers.open_clip import is_open_clip
from harness.hosts.reduced import ReducedInside
from harness.kit.errors import HarnessError
from harness.reduction import Guide


def clip_guide(model: nn.Module, text_features: Any) -> Guide:
    """The guide of texts by their features (B, P), of any length, in the space that a CLIP shares, or by what
    transformers' `get_text_features` returns.

    `model`: transformers' CLIPModel or open_clip's CLIP, or what `harness.reduce` made of one. `text_cls` is the unit
    feature taken back through the image's projection to the tower's width (ELIP's released program, its CLIP/src),
    `shared` and `feature` are the space's. Nothing gets a gradient. Raises HarnessError for another model and for
    features of another width.
    """
    whole, tower = (model.model, model.part.model) if isinstance(model, ReducedInside) else (model, None)
    image_norm, image_PD, text_norm, text_PT = _parts(whole, tower)
    text_features = getattr(text_features, "pooler_output", text_features)
    if not isinstance(text_features, Tensor):
        raise HarnessError(f"text features: a {type(text_features).__name__}, expected a torch.Tensor (B, P)")
    if text_features.dim() != 2 or text_features.shape[1] != len(image_PD):
        found = " x ".join(str(size) for size in text_features.shape)
        raise HarnessError(f"text features {found}: expected B x {len(image_PD)}, the space that the CLIP shares")
    feature = F.normalize(text_features.detach().to(image_PD), dim=-1)
    shared = clip_space(image_norm, image_PD, text_norm, text_PT)
    return Guide(feature @ image_PD.detach(), shared=shared, feature=feature)


def _parts(model: Any, tower: Any) -> tuple[Any, Tensor, Any, Tensor]:
    """The tower's first norm, the image's projection (P, D), the text's last norm and its projection (P, T)."""
    if hasattr(model, "visual_projection") and hasattr(model, "vision_model"):
        norm = (tower or model.vision_model).pre_layrnorm
        text = getattr(model.text_model, "text_model", model.text_model)
        return norm, model.visual_projection.weight, text.final_layer_norm, model.text_projection.weight
    visual: Any = getattr(model, "visual", nn.Identity()) if tower is None else tower
    if not is_open_clip(visual) or not isinstance(getattr(visual, "proj", None), Tensor):
        raise HarnessError(
            f"{type(model).__name__}: no CLIP with projections of both sides; make the guide yourself, "
            "harness.Guide(text_cls) with (B, D) as wide as the tower's states"
        )
    text = getattr(model, "text", model)  # open_clip's CustomTextCLIP keeps its text side there
    projection = text.text_projection
    text_PT = projection.weight if isinstance(projection, nn.Linear) else projection.T
    return visual.ln_pre, visual.proj.T, text.ln_final, text_PT
