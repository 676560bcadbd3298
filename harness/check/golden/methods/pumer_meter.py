"""PuMer's golden files of METER's cross-modal encoder: both streams after every layer, and what the poolers read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from harness.check.golden.file import Golden, difference
from harness.hosts.parts.bert import bert_layers
from harness.hosts.parts.text_stacks import CoAttentionStack
from harness.reduction import StackShape, TokenReducer, Tokens, TokenState
from harness.reduction.budget import make_reducer


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The program's counter of layers rises by two a layer."""
    return {
        "layers": [number // 2 for number in config["reduce_layers"] if number % 2 == 0],
        "prune": config["prune_r"],
        "merge": config["merge_r"],
        "merge_text": config["merge_text"],
        "padding_merges": True,
        "pruned_by_merging": True,
    }


def check(golden: Golden) -> dict[str, float]:
    """States, masks, lengths and pooled features of both streams, and the gradients of their mean squares."""
    config, outputs, weights = golden.config, golden.part("output"), golden.part("weight")
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    inputs = {name: golden.part("input")[name].clone() for name in golden.part("input")}
    given = {name: inputs[name].requires_grad_() for name in ("text_embeds", "image_embeds")}
    layers = {side: _layers(config, leaves, side) for side in ("text", "image")}
    stack = CoAttentionStack(layers["text"], layers["image"])
    types = leaves["token_type_embeddings.weight"]
    text, image = given["text_embeds"] + types[0], given["image_embeds"] + types[1]
    state = stack.open((Tokens(text, inputs["text_mask"].bool()), Tokens(image)))
    states, reducer = [], _reducer(config, stack, image.shape[1] - 1)
    for block in range(config["layers"]):
        state = stack.step(block, state, reducer, None, None)
        states.append(state)
    (_beside(state).tokens.square().mean() + state.tokens.square().mean()).backward()
    ours = _outputs(states, leaves)
    errors = {name: difference(ours[name].reshape(value.shape), value) for name, value in outputs.items()}
    found: dict[str, Tensor | None] = {name: leaf.grad for name, leaf in leaves.items()}
    found |= {f"input.{name}": leaf.grad for name, leaf in given.items()}
    for side, modules in layers.items():
        own = modules.named_parameters()
        found |= {f"cross_modal_{side}_layers.{name}": parameter.grad for name, parameter in own}
    for name, expected in golden.part("grad").items():
        gradient = found[name]
        errors[f"grad.{name}"] = difference(torch.zeros_like(expected) if gradient is None else gradient, expected)
    return errors


def _layers(config: dict[str, Any], weights: dict[str, Tensor], side: str) -> nn.ModuleList:
    """One stream's layers with the file's weights."""
    width, heads, count = config["hidden_size"], config["num_heads"], config["layers"]
    mlp = weights["cross_modal_text_layers.0.intermediate.dense.bias"].numel()
    layers = bert_layers(width, heads, count, mlp=mlp, cross_attention=True, eps=config["norm_eps"]).double().eval()
    begin = f"cross_modal_{side}_layers."
    layers.load_state_dict({name[len(begin) :]: value for name, value in weights.items() if name.startswith(begin)})
    return layers


def _reducer(config: dict[str, Any], stack: CoAttentionStack, patches: int) -> TokenReducer[Any]:
    shape = StackShape(1, patches, 1, config["hidden_size"], True, beside={"fusion": stack.shape})
    return make_reducer("pumer", shape, settings=settings(config)).double().eval()


def _beside(state: TokenState) -> TokenState:
    assert state.beside is not None
    return state.beside


def _outputs(states: list[TokenState], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the file may hold, by its names there."""
    last = states[-1]
    found = {"text": last.tokens, "image": _beside(last).tokens}
    for side, each in (("text", states), ("image", [_beside(state) for state in states])):
        found |= {f"{side}_after_layer{layer}": state.tokens for layer, state in enumerate(each)}
        found[f"{side}_lengths"] = torch.tensor([state.tokens.shape[1] for state in each], dtype=torch.float64)
    pooled = []
    for side in ("text", "image"):
        pooler = (weights[f"cross_modal_{side}_pooler.dense.{part}"] for part in ("weight", "bias"))
        pooled.append(nn.functional.linear(found[side][:, 0], *pooler).tanh())
    mask = last.tokens.new_ones(last.tokens.shape[:2]) if last.mask is None else last.mask.double()
    return found | {"cls_feats": torch.cat(pooled, dim=-1), "text_mask": mask}
