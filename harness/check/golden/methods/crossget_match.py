"""CrossGET's golden files of one block's matching and merging alone."""

from __future__ import annotations

import importlib
from typing import Any

import torch

from harness.check.golden.file import Golden, difference
from harness.kit.registry import methods
from harness.reduction import TokenState, take


def check(golden: Golden) -> dict[str, float]:
    """Sources, destinations, weights, tokens, sizes and a text's merged ids, and the gradient of the mean square."""
    crossget: Any = importlib.import_module(methods.get("crossget").__module__)
    given = golden.part("input")
    x = given["x"].clone().requires_grad_()
    batch, length = x.shape[:2]
    cross = torch.full((batch, 1), length - 1)
    ids = given.get("token_id")
    guiding = cross if ids is None else ids.argmax(dim=1, keepdim=True)
    protected = torch.zeros(batch, length, dtype=torch.bool)
    protected = protected.scatter(1, torch.cat([torch.zeros_like(cross), cross, guiding], dim=1), True)
    count = min(golden.config["r"], (length - (2 if ids is None else 3)) // 2)
    source, into, weights = crossget.match(given["key"], take(given["query"], guiding), protected, count, stable=False)
    sizes = given["sizes"].squeeze(2)
    reduced = crossget.merged(TokenState(x, sizes=sizes), source, into, weights, None)
    reduced.tokens.square().mean().backward()
    ours = {
        "sources": source,
        "destinations": into,
        "weights_source_destination": weights,
        "x": reduced.tokens,
        "sizes": reduced.sizes,
    }
    if ids is not None:
        gone = torch.zeros(batch, length, dtype=torch.bool).scatter(1, source, True)
        rest = torch.sort(gone.to(torch.int8), dim=1, stable=True).indices[:, 1 : length - count]
        words = TokenState(ids.double().unsqueeze(2), sizes=sizes)
        ours["token_id"] = words.merge(source - 1, into - 1, rest - 1).tokens
    errors = {name: _error(ours[name], value) for name, value in golden.part("output").items()}
    assert x.grad is not None
    return errors | {"grad.x": difference(x.grad, golden.part("grad.input")["x"])}


def _error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return difference(ours.double().reshape(theirs.shape), theirs.double())
