"""CrossGET's golden files of a whole CLIP: both towers with their cross tokens, both losses and their gradients.

The program's ranking leaves ties, which every two tokens make that are each other's best, to torch's default sort.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.check.golden.file import AS_READ, Golden, difference
from harness.hosts.clip.model import Clip, ClipConfig
from harness.hosts.host import TextBatch
from harness.hosts.parts.text_stacks import through
from harness.hosts.parts.towers import open_tower
from harness.hosts.weights.released import Split, Transposed, load_released
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.reduction import TokenReducer, Tokens, encode, reducing
from harness.reduction.budget import make_reducer

CROSS = {"visual.transformer.cross_image": "cross.vision", "transformer.cross_text": "cross.text"}
MAX_LOG_SCALE = 4.6052


def settings(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "r_image": config["r_image"],
        "r_text": config["r_text"],
        "padding_merges": True,
        "unstable_sort": True,
    }


def check(golden: Golden) -> dict[str, float]:
    """Tokens, sizes, features and cross tokens of both towers, the losses, and the gradients of their sum."""
    config, given, weights = golden.config, golden.part("input"), golden.part("weight")
    model = Clip(_config(config, weights, int(given["text"].max()))).double().eval()
    load_released(model, {name: value for name, value in weights.items() if name not in CROSS}, golden.path.name)
    method = make_reducer("crossget", model.shape, settings=settings(config)).double().train()
    method.load_state_dict({own: weights[name].squeeze(0) for name, own in CROSS.items()})
    ids = given["text"]
    mask = torch.arange(ids.shape[1]) <= ids.argmax(dim=1, keepdim=True)
    with reducing(method):
        embedded = model.words(ids) + model.positions.weight[: ids.shape[1]]
        read = through(model.text_stacks()[0], Tokens(embedded, mask))
        texts = TextBatch(ids, mask, read.with_states(model.text_norm(read.states)))
        image = encode(open_tower(model.vision), method, given["image"], model.guide(texts))
    image_cross = image.notes["crossget_cross"]
    text_cross = image.notes["crossget_text_cross"]
    image_feature, text_feature = model.image_feature(image), model.text_feature(texts)
    weight = config["kd_weight"]
    loss_ita = _contrast(model, image_feature, text_feature, given["idx"])
    loss_kd = _functions().distillation(image_cross, text_cross)
    loss = (1 - weight) * loss_ita + weight * loss_kd
    loss.backward()
    ours = {
        "image_tokens": image.states,
        "text_tokens": read.states,
        "image_sizes": _sizes(image),
        "text_sizes": _sizes(read),
        "text_token_id": _merged_ids(ids, read)[:, : None if config["r_text"] else ids.shape[1]],
        "image_feature": image_feature,
        "text_feature": text_feature,
        "image_cross": image_cross.transpose(0, 1),
        "text_cross": text_cross.transpose(0, 1),
        "loss_ita": loss_ita,
        "loss_kd": loss_kd,
        "loss": loss,
    }
    errors = {name: difference(ours[name].reshape(value.shape), value) for name, value in golden.part("output").items()}
    for name, value in golden.part("grad").items():
        errors[f"grad.{name}"] = difference(_gradient(model, method, name).reshape(value.shape), value)
    return errors


def _functions() -> Any:
    return importlib.import_module(methods.get("crossget").__module__)


def _config(config: dict[str, Any], weights: dict[str, Tensor], end_id: int) -> ClipConfig:
    text = config["text"]
    return ClipConfig(
        image_size=config["img_size"],
        patch_size=config["patch_size"],
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        mlp_ratio=weights["visual.transformer.resblocks.0.mlp.c_fc.bias"].numel() // config["embed_dim"],
        vision_eps=config["norm_eps"],
        text_eps=config["norm_eps"],
        activation=config["activation"],
        text_width=text["width"],
        text_layers=text["layers"],
        text_heads=text["heads"],
        projection=config["output_dim"],
        vocab_size=text["vocab_size"],
        text_length=text["context_length"],
        end_id=end_id,
        **AS_READ,
    )


def _contrast(model: Clip, image: Tensor, text: Tensor, idx: Tensor) -> Tensor:
    """Mean of both directions' cross-entropies against the pairs of the same number, in equal shares."""
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    logits = model.logit_scale.clamp(0, MAX_LOG_SCALE).exp() * image @ text.T
    same = (idx[:, None] == idx[None, :]).to(logits.dtype)
    targets = same / same.sum(dim=1, keepdim=True)
    losses = [-(each.log_softmax(dim=1) * targets).sum(dim=1).mean() for each in (logits, logits.T)]
    return (losses[0] + losses[1]) / 2


def _sizes(tokens: Tokens) -> Tensor:
    return tokens.states.new_ones(tokens.states.shape[:2]) if tokens.sizes is None else tokens.sizes


def _merged_ids(ids: Tensor, read: Tokens) -> Tensor:
    """(B, N), the mean id of what each text token holds; the cross token, which the program adds where a text is
    reduced, carries the first one's.
    """
    assert read.origin is not None
    counts = read.states.shape[1] - 1
    behind = ids[:, 1:].double()
    total = torch.zeros(len(ids), counts, dtype=torch.float64).scatter_add(1, read.origin, behind)
    total[:, -1] = behind.new_tensor(0) + ids[:, 0]
    return torch.cat([ids[:, :1].double(), total / _sizes(read)[:, 1:]], dim=1)


def _gradient(model: Clip, method: TokenReducer[Any], name: str) -> Tensor:
    """The gradient of a released parameter, in the released layout; zeros where none came."""

    def of(parameter: Tensor) -> Tensor:
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad

    if name in CROSS:
        return of(method.get_parameter(CROSS[name]))
    target = model.released(name)
    if isinstance(target, Split):
        return torch.cat([of(model.get_parameter(part)) for part in target.names])
    if isinstance(target, Transposed):
        return of(model.get_parameter(target.name)).T
    if not isinstance(target, str):
        raise HarnessError(f"golden gradient {name}: not a parameter of CLIP")
    return of(model.get_parameter(target))
