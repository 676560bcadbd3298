"""A-CLIP's golden files: one training step, from crops, boxes and texts to followers, masks, losses and gradients."""

from __future__ import annotations

import re
from typing import Any, cast

import torch
from torch import Tensor, nn

from harness.check.golden.file import Golden, difference, vit_sizes
from harness.check.golden.objectives._host import objective_for, output_errors
from harness.hosts.clip.model import Clip, ClipConfig
from harness.hosts.host import TextBatch
from harness.hosts.parts.shared_space import Projection, shared_space
from harness.hosts.parts.timm_vision import timm_vision, vision_transformer
from harness.hosts.weights.released import Split, Translation, Transposed
from harness.kit.errors import HarnessError
from harness.objectives.aclip import AclipObjective
from harness.objectives.parts.momentum import Twin
from harness.objectives.parts.views import simclr_loss
from harness.reduction import Tokens, take

LAYERS = {"layer1": 0, "bn1": 1, "layer2": 3, "bn2": 4, "layer3": 6}
HEADS = {"im_proj_byol": "projector", "im_pred_byol": "predictor", "im_proj_byol_e": "projector_follower.model"}
# The follower of the text side, which no loss reads; the objective has none.
ASIDE = re.compile(r"(transformer|image_projection|text_projection)_e(\..+)?")


class TimmClip(Clip):
    """CLIP's text side beside timm's ViT, whose tokens leave it normed; a text is read at its largest id."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__(config)
        self.vision = vision_transformer(config)

    def released(self, name: str) -> Translation:
        if name.startswith("visual."):
            return timm_vision(name.removeprefix("visual."))
        return Transposed("image_projection.weight") if name == "image_projection" else super().released(name)

    def normed(self, image: Tokens) -> Tensor:
        return image.states

    def image_feature(self, image: Tokens) -> Tensor:
        feature: Tensor = self.image_projection(image.states[:, 0])
        return feature

    def text_feature(self, texts: TextBatch) -> Tensor:
        rows = torch.arange(len(texts.ids))
        feature: Tensor = self.text_projection(texts.states[rows, texts.ids.argmax(dim=-1)])
        return feature

    def shared_space(self) -> tuple[Projection, Projection]:
        return shared_space(cast(nn.LayerNorm, self.vision.norm), self.image_projection, self.text_projection)


def check(golden: Golden) -> dict[str, float]:
    """Attention, masks, tokens, features, losses, what follows the student, and gradients."""
    config, given = golden.config, golden.part("input")
    objective = _objective(config)
    host = objective.host
    with torch.no_grad():
        for name, value in golden.part("weight").items():
            if not ASIDE.fullmatch(name):
                _write(objective, name, value)
    aside = _aside(golden, objective)
    followed = objective.follow(given["image_ema"], given["positions"], config["momentum"])
    texts = host.text_batch(given["text"], torch.ones_like(given["text"], dtype=torch.bool))
    seen = objective.see(torch.cat([given["image1"], given["image2"]]), followed.kept)
    losses = objective.compared(seen, followed, texts)
    loss = torch.stack(list(losses.values())).sum()
    loss.backward()
    views = seen.simclr.chunk(2)
    ours = {
        "ema_attention": followed.attention,
        "removed": followed.removed.long(),
        "image_embed": host.image_feature(seen.tokens),
        "text_embed": host.text_feature(texts),
        "image_ssl_embed": seen.simclr,
        "byol_prediction": seen.predicted,
        "byol_target": followed.target,
        "loss": loss,
        "loss_clip_view1": 2 * losses["contrast_1"],
        "loss_clip_view2": 2 * losses["contrast_2"],
        "loss_byol": losses["byol"] / 2,
        "loss_simclr_as_released": losses["simclr"],
        "loss_simclr_two_views": simclr_loss(views[0], views[1], config["ssl_temperature"]),
    }
    ours |= {f"view_attention_{view}": each for view, each in enumerate(followed.in_views)}
    ours |= _in_their_order(golden, seen.tokens, followed.kept)
    for name in golden.part("output.after"):
        ours[f"after.{name}"] = aside[name] if name in aside else _read(objective, name)
    errors = output_errors(golden, ours)
    for name, expected in golden.part("grad").items():
        errors[f"grad.{name}"] = difference(_read(objective, name, gradient=True), expected)
    return errors


def _objective(config: dict[str, Any]) -> Any:
    text = config["text"]
    host = TimmClip(
        ClipConfig(
            **vit_sizes(config),
            activation="quick_gelu",
            text_width=text["width"],
            text_layers=text["layers"],
            text_heads=text["heads"],
            text_eps=config["text_norm_eps"],
            projection=config["output_dim"],
            vocab_size=text["vocab_size"],
            text_length=text["context_length"],
            end_id=-1,
        )
    )
    settings = {
        "mask": config["mask_ratio"] > 0,
        "momentum": config["momentum"],
        "hidden": config["ssl_hidden"],
        "out": config["ssl_dim"],
        "temperature": config["ssl_temperature"],
    }
    return objective_for(AclipObjective, host, settings)


def _in_their_order(golden: Golden, tokens: Tokens, kept: Tensor) -> dict[str, Tensor]:
    """The patches that are kept and all tokens, in the order of the file, which the release leaves open."""
    theirs = golden.part("output").get("kept")
    if theirs is None:
        return {"tokens": tokens.states}
    places = (theirs.unsqueeze(2) == kept.unsqueeze(1)).int().argmax(dim=2)
    patches = take(tokens.states[:, 1:], places)
    return {"kept": kept.gather(1, places), "tokens": torch.cat([tokens.states[:, :1], patches], dim=1)}


def _aside(golden: Golden, objective: Any) -> dict[str, Tensor]:
    """After the step, by its released name, each tensor of the followers that the objective has not."""
    found = {}
    for name, value in golden.part("weight").items():
        if match := ASIDE.fullmatch(name):
            student = torch.nn.ParameterList([_read(objective, match[1] + (match[2] or ""))])
            twin: Twin[Any] = Twin(torch.nn.ParameterList([value]))
            twin.follow(student, golden.config["momentum"])
            found[name] = twin.model[0]
    return found


def _places(objective: Any, name: str) -> tuple[list[Tensor], bool]:
    """The tensors that a released one is of, along the first axis, and whether it is transposed."""
    own = objective.state_dict(keep_vars=True)
    head, _, rest = name.partition(".")
    if head in HEADS:
        return [own[f"{HEADS[head]}.{rest}"]], False
    if head == "image_mlp":
        layer, _, kind = rest.partition(".")
        return [own[f"simclr.{LAYERS[layer]}.{kind}"]], False
    if head == "visual_ema":
        return [own[f"follower.model.{rest}"]], False
    target = objective.host.released(name)
    if isinstance(target, Transposed):
        return [own[f"host.{target.name}"]], True
    names = target.names if isinstance(target, Split) else (target,)
    if not all(isinstance(one, str) for one in names):
        raise HarnessError(f"golden tensor {name}: not a tensor of A-CLIP")
    return [own[f"host.{one}"] for one in names], False


def _write(objective: Any, name: str, value: Tensor) -> None:
    places, turned = _places(objective, name)
    for place, part in zip(places, (value.T if turned else value).chunk(len(places)) if value.ndim else [value]):
        place.copy_(part)


def _read(objective: Any, name: str, gradient: bool = False) -> Tensor:
    """A released tensor, or its gradient: zeros where none came."""
    places, turned = _places(objective, name)
    parts = places
    if gradient:
        parts = [torch.zeros_like(place) if place.grad is None else place.grad for place in places]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole.detach().T if turned else whole.detach()
