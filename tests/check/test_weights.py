"""The weights that ship reach their floors: 1,000 held-out scenes, dense."""

from harness.check.weights import lines


def test_the_shipped_weights_reach_every_floor():
    found = lines("albef-tiny")
    assert len(found) == 4
    assert all(good for _, good in found), found
