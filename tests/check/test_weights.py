"""The weights that ship reach their floors on held-out scenes, dense."""

from harness.check.weights import lines


def test_the_shipped_weights_reach_every_floor():
    found = lines("albef-tiny")
    assert len(found) == 4
    assert all(good for _, good in found), found


def test_the_captioner_reaches_its_floors_on_a_hundred_scenes():
    found = lines("blip-tiny", 100)
    assert len(found) == 4
    assert all(good for _, good in found), found
