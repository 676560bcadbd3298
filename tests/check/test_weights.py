"""The weights that ship reach their floors on some of the held-out scenes, dense."""

from __future__ import annotations

import pytest

from harness.check.weights import FLOORS, lines


@pytest.mark.parametrize(
    ("model", "tasks"), [("albef-tiny", ("vqa", "entailment", "nlvr2")), ("blip-tiny", ("captioning",))]
)
def test_the_shipped_weights_reach_every_floor(model: str, tasks: tuple[str, ...]) -> None:
    found = lines(model, 100)
    assert all(good for _, good in found), found
    texts = [text for text, _ in found]
    for task in tasks:
        (own,) = [place for place, text in enumerate(texts) if text.startswith(FLOORS[task].name)]
        assert texts[own + 1].startswith("above blank images (")
    assert sum("re-ranked" in text for text in texts) == 1
