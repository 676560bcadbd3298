"""FLIP's golden files: a whole model in flax's names and layouts, one training step on a part of the patches.

The class token has no position, features are means over all tokens, MLPs use the tanh approximation of GELU, and a
text is read without a padding mask.
"""

from __future__ import annotations

import math
import re
from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from harness.check.golden.file import Golden, difference
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import Trace, encode, take
from harness.reduction.budget import make_reducer

SIDES = {"img_encoder": "image", "txt_encoder": "text"}
BLOCK = re.compile(r"(img|txt)_encoder\.Transformer\.encoderblock_(\d+)\.(\w+)\.(?:(\w+)\.)?(kernel|bias|scale)")
PARTS = {
    ("LayerNorm_0", None): "norm1",
    ("LayerNorm_1", None): "norm2",
    ("MlpBlock_0", "Dense_0"): "mlp.fc1",
    ("MlpBlock_0", "Dense_1"): "mlp.fc2",
    ("MultiHeadDotProductAttention_0", "out"): "attn.proj",
    ("MultiHeadDotProductAttention_0", "query"): "attn.qkv/0",
    ("MultiHeadDotProductAttention_0", "key"): "attn.qkv/1",
    ("MultiHeadDotProductAttention_0", "value"): "attn.qkv/2",
}


class Flip(nn.Module):
    """Both encoders, their projections and the scale."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        text, out = config["text"], config["output_dim"]
        image = {name: config[name] for name in ("img_size", "patch_size", "embed_dim", "depth", "num_heads")}
        self.image = _encoder(config, **image)
        sizes = {"embed_dim": text["width"], "num_heads": text["heads"], "depth": text["layers"]}
        self.text = _encoder(config, img_size=8, patch_size=8, **sizes)
        self.words = nn.Parameter(torch.zeros(text["vocab_size"], text["width"]))
        self.positions = nn.Parameter(torch.zeros(1, text["context_length"], text["width"]))
        self.image_projection = nn.Linear(config["embed_dim"], out, bias=False)
        self.text_projection = nn.Linear(text["width"], out, bias=False)
        self.logit_scale = nn.Parameter(torch.zeros(1))

    def read(self, ids: Tensor) -> Tensor:
        """Unit feature (B, P) of texts, at their first token."""
        states = self.words[ids] + self.positions[:, : ids.shape[1]]
        for block in self.text.blocks:
            states = block(states)
        return unit(self.text_projection(self.text.norm(states)[:, 0]))

    def loss(self, image: Tensor, text: Tensor) -> Tensor:
        logits = self.logit_scale.clamp(0, math.log(100)).exp() * image @ text.T
        right = torch.arange(len(logits))
        return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def unit(feature: Tensor) -> Tensor:
    return feature / (feature.norm(dim=-1, keepdim=True) + 1e-8)


def check(golden: Golden) -> dict[str, float]:
    """Tokens, what was left out, features and losses of both modes, and the gradients of the training loss."""
    config, given = golden.config, golden.part("input")
    model = Flip(config).double().eval()
    _load(model, golden.part("weight"))
    method: Any = make_reducer("flip", open_tower(model.image).shape, settings={"mask_ratio": config["mask_ratio"]})
    method.train().noise = given["noise"]
    trace = Trace(origins_wanted=True)
    text = model.read(given["text"])
    tokens = encode(open_tower(model.image), method, given["image"], None, trace).states
    loss = model.loss(_feature(model, tokens, config), text)
    loss.backward()
    order = given["noise"].argsort(dim=1)
    with torch.no_grad():
        every = encode(open_tower(model.image), method.eval(), given["image"]).states
        feature = _feature(model, every, config)
        # Where none is left out the program shuffles the patches all the same, which only the order shows.
        shuffled = torch.cat([torch.zeros_like(order[:, :1]), order + 1], dim=1) if config["mask_ratio"] == 0 else None
        ours = {
            "tokens": tokens if shuffled is None else take(tokens, shuffled),
            "loss": loss,
            "removed": (trace.origins[0] < 0).double(),
            "ids_restore": order.argsort(dim=1).double(),
            "image_feature_eval": feature,
            "text_feature_eval": text,
            "loss_eval": model.loss(feature, text),
            "tau": 1 / model.logit_scale.clamp(0, math.log(100)).exp(),
        }
    errors = {name: difference(ours[name].reshape(value.shape), value) for name, value in golden.part("output").items()}
    for name, value in golden.part("grad").items():
        errors[f"grad.{name}"] = difference(_gradient(model, name, value), value)
    return errors


def _encoder(config: dict[str, Any], **sizes: Any) -> VisionTransformer:
    norm, gelu = partial(nn.LayerNorm, eps=config["norm_eps"]), partial(nn.GELU, approximate="tanh")
    ratio = config["mlp_ratio"]
    return VisionTransformer(**sizes, mlp_ratio=ratio, num_classes=0, norm_layer=norm, act_layer=gelu)


def _feature(model: Flip, tokens: Tensor, config: dict[str, Any]) -> Tensor:
    return unit(model.image_projection(tokens.mean(dim=1) if config["img_avg_token"] else tokens[:, 0]))


def _target(name: str) -> tuple[str, int | None, str]:
    """Of a flax name: ours, which third of a fused tensor it is, and how its layout differs."""
    block = BLOCK.fullmatch(name)
    if block is not None:
        side, number, module, part, kind = block.groups()
        ours, _, third = PARTS[module, part].partition("/")
        suffix = "bias" if kind == "bias" else "weight"
        place = f"{SIDES[f'{side}_encoder']}.blocks.{int(number)}.{ours}.{suffix}"
        return place, int(third) if third else None, "matrix" if kind == "kernel" else "same"
    known = {
        "img_encoder.cls": ("image.cls_token", "same"),
        "img_encoder.embedding.kernel": ("image.patch_embed.proj.weight", "convolution"),
        "img_encoder.embedding.bias": ("image.patch_embed.proj.bias", "same"),
        "img_encoder.posembed_encoder.pos_embedding": ("image.pos_embed", "same"),
        "img_encoder.Transformer.encoder_norm.scale": ("image.norm.weight", "same"),
        "img_encoder.Transformer.encoder_norm.bias": ("image.norm.bias", "same"),
        "txt_encoder.Transformer.encoder_norm.scale": ("text.norm.weight", "same"),
        "txt_encoder.Transformer.encoder_norm.bias": ("text.norm.bias", "same"),
        "txt_encoder.posembed_encoder.pos_embedding": ("positions", "same"),
        "txt_encoder.token_embedding.embedding": ("words", "same"),
        "img_mlp1.kernel": ("image_projection.weight", "matrix"),
        "txt_mlp1.kernel": ("text_projection.weight", "matrix"),
        "logit_scale": ("logit_scale", "same"),
    }
    if name not in known:
        raise HarnessError(f"golden tensor {name}: not a parameter of FLIP")
    return known[name][0], None, known[name][1]


@torch.no_grad()
def _load(model: Flip, weights: dict[str, Tensor]) -> None:
    for name, value in weights.items():
        ours, third, layout = _target(name)
        value = _turned(value, layout, (3, 2, 0, 1))
        if ours == "image.pos_embed":
            value = torch.cat([torch.zeros_like(value[:, :1]), value[:, 1:]], dim=1)
        parameter = model.get_parameter(ours)
        (parameter if third is None else parameter.chunk(3)[third]).copy_(value)


def _gradient(model: Flip, name: str, like: Tensor) -> Tensor:
    ours, third, layout = _target(name)
    gradient = model.get_parameter(ours).grad
    if gradient is None:
        return torch.zeros_like(like)
    gradient = gradient if third is None else gradient.chunk(3)[third]
    return _turned(gradient, layout, (2, 3, 1, 0))


def _turned(value: Tensor, layout: str, convolution: tuple[int, ...]) -> Tensor:
    """A tensor in the other program's layout; `convolution`: where its axes go then."""
    if layout == "same":
        return value
    return value.T if layout == "matrix" else value.permute(convolution)
