"""Unmasked Teacher's golden files (UTA's twin, whose training was released): a masked student against given targets."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from harness.check.golden.file import Golden, difference
from harness.hosts.parts.towers import open_tower
from harness.objectives.parts.alignment import (
    Sources,
    TokenDecoder,
    alignment_loss,
    output_blocks,
    outputs_of,
    sinusoids,
    visible_by_importance,
)
from harness.reduction import PLAIN, TokenState

QKV = re.compile(r"encoder\.(blocks\.\d+\.attn)\.(q|v)_bias")


class Student(nn.Module):
    """The student's tower, which has no class token, its positions over all frames, and a decoder an output."""

    def __init__(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        super().__init__()
        sizes = {name: config[name] for name in ("img_size", "patch_size", "embed_dim", "depth", "num_heads")}
        norm = partial(nn.LayerNorm, eps=config["norm_eps"])
        own: dict[str, Any] = {"mlp_ratio": config["mlp_ratio"], "norm_layer": norm, "num_classes": 0}
        self.tower = VisionTransformer(**sizes, **own, class_token=False, global_pool="")
        patches = self.tower.patch_embed.num_patches * config["num_frames"]
        width, out, eps = config["embed_dim"], config["clip_output_dim"], config["norm_eps"]
        self.decoders = nn.ModuleList(
            TokenDecoder(width, out, patches, eps) for _ in range(config["clip_return_layer"])
        ).double()
        for decoder in self.decoders:
            decoder.table = sinusoids(patches, width)
        table = weights.get("encoder.pos_embed", sinusoids(patches, width))
        self.positions = nn.Parameter(table.clone(), requires_grad="encoder.pos_embed" in weights)

    def open(self, video_B3THW: Tensor) -> TokenState:
        """All patches of all frames, frame after frame, with their positions."""
        frames = video_B3THW.transpose(1, 2)
        patches = self.tower.patch_embed(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).flatten(1, 2)
        return TokenState(patches + self.positions, prefix=0).traced()


def check(golden: Golden) -> dict[str, float]:
    """What is removed, the student's tokens, the targets, the loss and its gradients."""
    config, given, weights = golden.config, golden.part("input"), golden.part("weight")
    model = Student(config, weights).double().eval()
    _load(model, weights)
    batch, frames = len(given["video"]), config["num_frames"]
    seen = visible_by_importance(given["importance"], config["mask_ratio"], batch)
    blocks = output_blocks(config["depth"], config["clip_return_layer"], config["clip_student_return_interval"])
    left = outputs_of(open_tower(model.tower), model.open(given["video"]).keep(seen), PLAIN, blocks)
    student, targets, losses = [], [], []
    for tokens, decoder, teacher in zip(left, model.decoders, given["teacher_tokens"], strict=True):
        sources = Sources.of(tokens)
        student.append(decoder(tokens, sources))
        targets.append(sources.mean(teacher))
        losses.append(alignment_loss(student[-1], targets[-1], sources.count > 0, config["clip_loss_type"]))
    loss = config["clip_loss_ratio"] * torch.stack(losses).mean()
    loss.backward()
    removed = torch.ones(batch, frames * given["importance"].shape[1]).scatter(1, seen, 0)
    ours = {"loss": loss, "removed": removed, "student_tokens": torch.stack(student), "targets": torch.stack(targets)}
    outputs = golden.part("output")
    errors = {name: difference(ours[name].double().reshape(value.shape), value) for name, value in outputs.items()}
    for name, expected in golden.part("grad").items():
        errors[f"grad.{name}"] = difference(_gradient(model, name, expected), expected)
    return errors


def _place(name: str) -> tuple[str, int | None]:
    """Our name of a released parameter, and which third of a fused bias it is."""
    third = QKV.fullmatch(name)
    if third is not None:
        return f"tower.{third[1]}.qkv.bias", "qkv".index(third[2])
    if name == "encoder.pos_embed":
        return "positions", None
    return name.replace("clip_decoder.", "decoders.").replace("encoder.", "tower."), None


@torch.no_grad()
def _load(model: Student, weights: dict[str, Tensor]) -> None:
    """Fill the student; queries and values alone have a bias, so that of the keys is zero."""
    for name, parameter in model.named_parameters():
        if name.endswith("qkv.bias"):
            parameter.zero_()
    for name, value in weights.items():
        ours, third = _place(name)
        parameter = model.get_parameter(ours)
        place = parameter if third is None else parameter.chunk(3)[third]
        place.copy_(value.reshape(place.shape))


def _gradient(model: Student, name: str, like: Tensor) -> Tensor:
    ours, third = _place(name)
    gradient = model.get_parameter(ours).grad
    if gradient is None:
        return torch.zeros_like(like)
    return (gradient if third is None else gradient.chunk(3)[third]).reshape(like.shape)
