"""A method that is distilled from the dense tower trains beside a pre-training objective."""

from __future__ import annotations

import torch

from harness.cost.host import NO_WORDS
from harness.hosts.build import build_host
from harness.objectives import choose
from harness.objectives.parts.objective import Moment
from harness.objectives.parts.recipe import recipe_of
from harness.reduction.budget import make_reducer
from tests.objectives.masked import SIZES, images, pairs


def test_a_step_has_the_losses_of_a_method_that_needs_the_dense_towers_tokens() -> None:
    torch.manual_seed(0)
    host = build_host("clip-tiny", **SIZES["clip"])
    schedule = {"schedule": {"begin": [1, 2], "keep": [0.7, 0.5]}}
    reducer = make_reducer("dynamicvit", host.shape, settings=schedule)
    objective = choose("clip-tiny").make(host, reducer, NO_WORDS, recipe_of("clip-tiny", {})).double()
    losses = objective(pairs(), Moment())
    assert {"contrast", "method.ratio", "method.token"} <= set(losses)
    dense = objective._dense(images())
    assert dense is not None
    assert torch.equal(dense.states, host.encode_image(images()).states)
