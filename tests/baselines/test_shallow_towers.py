"""Towers of fewer than twelve blocks take every method's defaults, or a line says why not and what to give."""

import re

import pytest
import torch

import harness
from harness.check.method import small_vit
from harness.kit.errors import HarnessError
from harness.kit.registry import methods
from harness.reduction import Guide

# What does not fit a shallow tower: each line gives what does, but of pumer, which works in no tower.
GIVEN = re.compile(
    r"(begin block \d+ for stage \d+: the tower has blocks 0 to \d+|begin 10 plus look-ahead 2 for stage 3 goes .*)"
    r"; give it a schedule of its own, as '(?P<spec>.+)'"
    r"|(ppt|bat) blocks \[3, 6, 9\]: the tower has blocks 0 to \d; give others, as blocks=\[(?P<blocks>.+)\]"
    r"|mctf fuses in all blocks but the first, and the tower has 1: give it blocks=\[(?P<only>0)\]"
    r"|diffrate learns no count of the first block, and the tower has 1: give it (?P<kept>prune_kept)"
)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6, 8, 11])
@pytest.mark.parametrize("method", methods.names())
def test_a_shallow_tower_is_reduced_or_the_line_says_what_to_give(method, depth):
    model = small_vit(depth=depth)
    images, guide = torch.randn(2, 3, 64, 64, dtype=torch.float64), Guide(torch.randn(2, 24, dtype=torch.float64))
    line = ""
    try:
        reduced = harness.reduce(model, method)
    except HarnessError as error:
        line = str(error)
    if line.startswith("method pumer works in fusion"):
        return
    if line:
        found = GIVEN.fullmatch(line)
        assert found, line
        blocks = found["blocks"] or found["only"]
        given = {"blocks": tuple(map(int, blocks.split(",")))} if blocks else {"schedule": found["spec"]}
        if (method, depth) == ("kmedoids", 1):
            with pytest.raises(HarnessError, match="no attention goes before it; begin later or set equal_weight=true"):
                harness.reduce(model, method, **given)
            given |= {"equal_weight": True}
        reduced = harness.reduce(model, method, **({"prune_kept": (33,)} if found["kept"] else given))
    reduced.reducer.double()
    with torch.no_grad():
        tokens = reduced.encode(images, guide)
    assert torch.isfinite(tokens.states).all()
    most = 65 + 2  # crossget adds tokens of its own
    assert 1 <= tokens.states.shape[1] <= (most if not line or method == "ats" else 64)


def test_what_is_given_is_the_default_at_the_same_shares_of_the_tower():
    given = {}
    for method, depth in (("evit", 6), ("trips", 8), ("topk", 2), ("elip", 4), ("ppt", 6), ("ats", 3)):
        with pytest.raises(HarnessError) as caught:
            harness.reduce(small_vit(depth=depth), method)
        given[method] = str(caught.value).split(", as ")[1]
    assert given == {
        "evit": "'begin=1,3,4 keep=0.7,0.49,0.343'",  # 0.7 of what there is: of the input that is 0.7^s
        "trips": "'begin=3,6 keep=0.7,0.49'",
        "topk": "'begin=1 keep=0.343'",
        "elip": "'begin=1,3 keep=0.65,0.4'",
        "ppt": "blocks=[1,3,4]",
        "ats": "'begin=1 keep=1'",
    }


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
