"""MADTP's golden files of a text's reduction alone: one layer's maps and scores in, tokens and mask out."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from harness.check.golden.file import Golden, difference
from harness.kit.registry import methods
from harness.reduction import StackShape, TokenState
from harness.reduction.budget import make_reducer

MASKED = -10000.0


def check(golden: Golden) -> dict[str, float]:
    """Tokens, additive mask, and the gradients of every input that has one."""
    given = {name: value.clone() for name, value in golden.part("input").items()}
    for name in golden.part("grad.input"):
        given[name].requires_grad_()
    x = given["x"]
    shape = StackShape(1, x.shape[1], 0, x.shape[2], True)
    settings = {"temperature": golden.config["temperature"], "by_batch": True}
    method: Any = make_reducer("madtp", shape, settings=settings)
    importance = importlib.import_module(methods.get("madtp").__module__).importance
    state = TokenState(x, prefix=0, mask=given["mask"] == 0)
    attention, scores = given["self_attention"][:, :, 1:, 1:], given["token_scores"]
    found = importance(attention, scores, given["cls_attention"], torch.ones_like(state.patch_standing))
    reduced = method.reduced(state, found, scores)
    outputs = golden.part("output")
    standing = reduced.patch_standing
    errors = {
        "x": difference(reduced.tokens, outputs["x"]),
        "mask": difference(torch.zeros_like(outputs["mask"]).masked_fill(~standing, MASKED), outputs["mask"]),
    }
    reduced.tokens.square().mean().backward()
    for name, expected in golden.part("grad.input").items():
        ours = given[name].grad
        errors[f"grad.{name}"] = difference(torch.zeros_like(expected) if ours is None else ours, expected)
    return errors
