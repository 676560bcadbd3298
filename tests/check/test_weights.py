"""The weights that ship reach their floors on some of the held-out scenes, dense."""

from __future__ import annotations

import pytest

from harness.check.weights import FLOORS, lines
from harness.hosts.weights.find import assets_of


@pytest.mark.parametrize("model", sorted({model for model, _ in FLOORS}))
def test_the_shipped_weights_reach_every_floor(model: str) -> None:
    found = lines(model, 100)
    assert all(good for _, good in found), found
    texts = [text for text, _ in found]
    for (host, _), floor in FLOORS.items():
        if host == model:
            (own,) = [place for place, text in enumerate(texts) if text.startswith(floor.name)]
            assert texts[own + 1].startswith("above blank images (")
    assert sum("re-ranked" in text for text in texts) == 1


@pytest.mark.parametrize("model", ["albef-tiny", "blip-tiny"])
def test_every_head_that_ships_has_a_floor(model: str) -> None:
    heads = {folder.name for folder in assets_of(model).iterdir() if folder.is_dir()}
    assert heads
    assert heads <= {task for host, task in FLOORS if host == model}
