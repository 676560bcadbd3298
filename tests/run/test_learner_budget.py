"""The budget of a method that learns does not depend on what was drawn before it was planned."""

import torch

from harness.hosts.build import build_host
from harness.hosts.parts.towers import open_tower
from harness.reduction.budget import make_reducer
from harness.run import grid


def test_a_learner_is_measured_as_one_seed_draws_it():
    shape = open_tower(build_host("albef-tiny").vision).shape
    measured = grid._as_drawn(lambda reducer: float(sum(one.sum() for one in reducer.parameters())))
    found, drawn = set(), set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        reducer = make_reducer("madtp", shape)
        drawn.add(float(sum(one.sum() for one in reducer.parameters())))
        state = torch.get_rng_state()
        found.add(measured(reducer))
        assert torch.equal(torch.get_rng_state(), state)
    assert len(drawn) == 2
    assert len(found) == 1
