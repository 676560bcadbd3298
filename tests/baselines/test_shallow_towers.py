"""Towers of fewer than twelve blocks take every method's defaults, or a line says why not and what to give."""

import re

import pytest
import torch

import harness
from harness.check.method import small_vit
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.reduction import Guide

ALONE = re.compile(
    r"begin block \d+ for stage \d+: the tower has blocks 0 to \d+; give it a schedule "
    r"(of its own, as '(?P<spec>.+)'|with fewer stages)"
    r"|ppt blocks \[3, 6, 9\]: expected rising numbers from 0 to|ats begins at block 3 and the tower has 3: give it"
    r"|bat blocks \[3, 6, 9\]: the tower has blocks 0 to \d; give others as blocks|method pumer works in fusion"
)


@pytest.mark.parametrize("depth", [3, 6, 8])
@pytest.mark.parametrize("method", methods.names())
def test_a_shallow_tower_is_reduced_or_the_line_says_what_to_give(method, depth):
    model = small_vit(depth=depth)
    images, guide = torch.randn(2, 3, 64, 64, dtype=torch.float64), Guide(torch.randn(2, 24, dtype=torch.float64))
    line = ""
    try:
        reduced = harness.reduce(model, method)
    except HarnessError as error:
        line = str(error)
    if line:
        found = ALONE.match(line)
        assert found, line
        if found["spec"] is None:
            return
        reduced = harness.reduce(model, method, schedule=found["spec"])
    reduced.reducer.double()
    with torch.no_grad():
        tokens = reduced.encode(images, guide)
    assert torch.isfinite(tokens.states).all()
    assert 1 <= tokens.states.shape[1] <= 65 + 2  # crossget adds tokens of its own


def test_more_than_half_is_said_once(capsys):
    model = small_vit(depth=3)
    for _ in range(2):
        reduced = harness.reduce(model, "tome", r_per_block=(40, 5, 20))
    assert capsys.readouterr().err.splitlines() == [
        "warning: tome: 40 tokens to merge in block 0, where 64 are: half of them at most merge",
        "warning: tome: the same in 1 more blocks",
    ]
    with torch.no_grad():
        assert reduced.forward_features(torch.randn(1, 3, 64, 64, dtype=torch.float64)).shape[1] == 1 + 64 - 32 - 5 - 13
    harness.reduce(model, "tome", r_per_block=(32, 5, 13))
    assert not capsys.readouterr().err
