"""ProtoCLIP's golden files: the loss of a batch against given clusters, with gradients, and the heads' statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.check.golden.file import Golden, difference
from harness.objectives.parts.contrast import pair_contrast
from harness.objectives.parts.prototypes import Lessons, ProjectionHead, PrototypeLoss, make_lessons

HEADS = {"image_projection_head": "image_head", "text_projection_head": "text_head"}
KINDS = ("image", "text", "external")


def check(golden: Golden) -> dict[str, float]:
    """Losses by name, features, centroids, accuracies, statistics after the step, and gradients."""
    config, given = golden.config, golden.part("input")
    loss = _loss(config, golden.part("weight"))
    log_scale = golden.part("weight")["logit_scale"].clone().requires_grad_()
    features = tuple(given[f"{side}_features"].clone().requires_grad_() for side in ("image", "text"))
    lessons, places = _lessons(config, given), given["index"]
    found = loss((features[0], features[1]), log_scale.exp(), lessons, places)
    total = torch.stack(list(found.values())).sum()
    total.backward()
    ours = {"loss": total}
    for name, module in (("image_projection_head", loss.image_head), ("text_projection_head", loss.text_head)):
        ours |= {f"after.{name}.{buffer}": value.clone() for buffer, value in module.named_buffers()}
    with torch.no_grad():
        ours |= _outputs(loss, (features[0], features[1]), log_scale.exp(), lessons, places)
    outputs = golden.part("output")
    errors = {name: difference(ours[name].double().reshape(value.shape), value) for name, value in outputs.items()}
    gradients = {f"input.{side}_features": part.grad for side, part in zip(("image", "text"), features)}
    gradients |= {"logit_scale": log_scale.grad, "logit_scale_proto": loss.log_scale.grad}
    for released, own in HEADS.items():
        head = getattr(loss, own)
        gradients |= {f"{released}.{name}": parameter.grad for name, parameter in head.named_parameters()}
    for name, expected in golden.part("grad").items():
        gradient = gradients[_numbered(name)]
        errors[f"grad.{name}"] = difference(torch.zeros_like(expected) if gradient is None else gradient, expected)
    return errors


def _loss(config: dict[str, Any], weights: dict[str, Tensor]) -> PrototypeLoss:
    sizes = (config["embed_dim"], config["projection_hidden_dim"], config["projection_dim"])
    heads = [ProjectionHead(*sizes, config["projection_n_layers"], config["bn_eps"]) for _ in HEADS]
    terms = config["w_clip"], config["w_proto"], config["w_proto_external"]
    loss = PrototypeLoss(heads[0], heads[1], terms, config["target_temperature"], config["external_temperature"])
    state = {"log_scale": weights["logit_scale_proto"]}
    for name, value in weights.items():
        released, _, rest = _numbered(name).partition(".")
        if released in HEADS:
            state[f"{HEADS[released]}.{rest}"] = value
    loss.double().train().load_state_dict(loss.state_dict() | state)
    return loss


def _numbered(name: str) -> str:
    """A head's tensor by the number of its layer; where the released head is one Linear alone it has none."""
    released, _, rest = name.partition(".")
    return f"{released}.0.{rest}" if released in HEADS and not rest[0].isdigit() else name


def _lessons(config: dict[str, Any], given: dict[str, Tensor]) -> Lessons:
    kinds = KINDS if config["external_teacher"] else KINDS[:2]
    features = given["episode_image_features"], given["episode_text_features"]
    labels = [given[f"episode_{kind}_labels"] for kind in kinds]
    centroids = [given[f"{kind}_centroids"] for kind in kinds]
    return make_lessons(features, labels, centroids, back_translation=config["PBT"], empty_external=True)


def _outputs(
    loss: PrototypeLoss, features: tuple[Tensor, Tensor], scale: Tensor, lessons: Lessons, places: Tensor
) -> dict[str, Tensor]:
    """What the file may hold of the parts, unweighted; the heads' statistics of the batch are used once more."""
    unit = [F.normalize(side, dim=-1) for side in features]
    images, texts = loss.project(*features)
    terms, own = loss.terms((images, texts), lessons, places), loss.log_scale.exp()
    found = {f"loss_proto_{name}": terms[name] for name in ("image_to_text", "text_to_image")}
    found |= {
        "image_features_normalised": unit[0],
        "text_features_normalised": unit[1],
        "image_projected": images,
        "text_projected": texts,
        "loss_clip": pair_contrast(unit[0], unit[1], scale),
        "loss_proto": (terms["image_to_text"] + terms["text_to_image"]) / 2,
        "accuracy_image_to_text": lessons.image_of_text.accuracy(images, own, places),
        "accuracy_text_to_image": lessons.text_of_image.accuracy(texts, own, places),
        "image_centroids_from_text": lessons.image_of_text.student,
        "text_centroids_from_image": lessons.text_of_image.student,
    }
    if lessons.image_of_external is not None and lessons.text_of_external is not None:
        found |= {
            "loss_image_to_external": terms["image_to_external"],
            "loss_text_to_external": terms["text_to_external"],
            "loss_external": (terms["image_to_external"] + terms["text_to_external"]) / 2,
            "image_centroids_from_external": lessons.image_of_external.student,
            "text_centroids_from_external": lessons.text_of_external.student,
        }
    return found
