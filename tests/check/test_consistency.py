"""Facts about `check consistency`: which words name which objects, and that shown and pruned ones are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from harness.check.consistency import absent_colour, decide, lines, mentions
from harness.data.scene_layout import COLOUR_NAMES, SHAPES, Scene, Thing, make_scenes
from harness.data.scene_text import caption_text, captions
from harness.hosts.ready import Host, load_host
from harness.kit.errors import HarnessError
from harness.reduction.budget import make_reducer
from harness.train.pretrain import pretrain
from harness.train.request import PretrainRequest


@pytest.fixture(scope="module")
def host() -> Host:
    return load_host("albef-tiny", None, "cpu", "float32")


def always(answer: float) -> nn.Linear:
    """A decision that is the same for every word."""
    decision = nn.Linear(96, 1)
    nn.init.zeros_(decision.weight)
    nn.init.constant_(decision.bias, answer)
    return decision


def test_the_words_that_name_objects_are_found_and_no_others(host: Host) -> None:
    text = "a red circle at top left and a blue ring just below the red circle"
    ids, _ = host.tokenizer([text])
    named = [(COLOUR_NAMES[colour], SHAPES[shape]) for _, colour, shape in mentions(host, ids[0])]
    assert named == [("red", "circle"), ("blue", "ring"), ("red", "circle")]
    for scene in make_scenes(0, "val", 20):
        ids, _ = host.tokenizer([caption_text(captions(scene, 1)[0])])
        assert all(shape * len(COLOUR_NAMES) + colour in scene.by_type for _, colour, shape in mentions(host, ids[0]))


@pytest.mark.parametrize("method", ["dense", "evit", "elip"])
def test_every_word_is_of_an_object_that_is_shown_or_pruned(host: Host, method: str) -> None:
    """A decision that is the same for all words is right of the true ones or of the false ones."""
    scenes = list(make_scenes(0, "val", 8))
    reducer = make_reducer(method, host.model.shape, ratio=None if method == "dense" else 0.5).eval()
    found = decide(host, always(1.0), reducer, scenes)
    assert {fits for *_, fits in found} == {True}
    assert {fits for *_, fits in decide(host, always(-1.0), reducer, scenes)} == {False}
    assert len([one for one in found if not one[2]]) == len(scenes)
    pruned = {gone for _, gone, _, _ in found}
    assert pruned == ({False} if method == "dense" else {False, True})


def test_a_false_colour_is_one_that_no_object_of_the_shape_has() -> None:
    colours = range(len(COLOUR_NAMES))
    some = Scene(0, "val", 0, (Thing(0, 0, 0), Thing(0, 1, 1), Thing(1, 2, 2)), ())
    assert absent_colour(some, 0, 0) == 2
    every = Scene(0, "val", 0, tuple(Thing(0, colour, colour) for colour in colours), ())
    assert absent_colour(every, 0, 0) is None


def test_what_the_objective_left_is_measured_and_anything_else_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = {"text_layers": 1, "fusion_layers": 1}
    request = {"data": ("scenes-small",), "steps": 1, "batch_size": 4, "sizes": size, "quiet": True}
    for name, objective in (("epic", "albef+epic"), ("albef", "albef")):
        pretrain(PretrainRequest(**request, objective=objective, out=tmp_path / name))
    heading, columns, dense, random = (line for line, _ in lines(tmp_path / "epic", "random", 0.5, 6))
    assert heading.startswith("albef-tiny, scenes-small, 6 scenes")
    assert columns.split()[:3] == ["true", "words", "that"]
    assert dense.startswith("dense")
    assert " of " in dense
    assert random.startswith("random")
    for other in (tmp_path / "albef", tmp_path):
        with pytest.raises(HarnessError, match="no finished run of objective epic; pretrain --objective epic"):
            list(lines(other, "random", 0.5, 6))
