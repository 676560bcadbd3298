"""The budget of a method that learns does not depend on what was drawn before it was planned."""

import torch

from harness.hosts.build import build_host
from harness.hosts.parts.towers import open_tower
from harness.reduction.budget import make_reducer
from harness.run.budgets import as_drawn


def test_a_learner_is_planned_as_one_seed_draws_it():
    shape = open_tower(build_host("albef-tiny").vision).shape
    found, drawn = set(), set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        reducer = make_reducer("madtp", shape)
        drawn.add(total(reducer))
        state = torch.get_rng_state()
        found.add(total(as_drawn(reducer)))
        assert torch.equal(torch.get_rng_state(), state)
    assert len(drawn) == 2
    assert len(found) == 1


def test_what_learns_nothing_is_planned_as_it_is():
    reducer = make_reducer("evit", open_tower(build_host("albef-tiny").vision).shape)
    assert as_drawn(reducer) is reducer


def total(reducer: torch.nn.Module) -> float:
    return float(sum(one.sum() for one in reducer.parameters()))
