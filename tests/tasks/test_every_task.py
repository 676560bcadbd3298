"""Results of all tasks depend on the set alone: not on the order of its files, on batches, threads or budgets."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from harness.data.formats import ImageTextSet
from tests.tasks.every_task import evaluated, results, scene_set

ANNOTATIONS = ("captions", "questions", "hypotheses", "statements", "classified")
IN_ORDER_OF_IMAGES = ("vqa", "entailment", "captioning", "classification", "retrieval-contrast")


def shuffled(data: ImageTextSet, seed: int) -> ImageTextSet:
    """The images and annotations in another order; captions of one image keep theirs, as the first are chosen."""
    draw = random.Random(seed)
    fields = {name: list(getattr(data, name)) for name in ("images", *ANNOTATIONS)}
    for values in fields.values():
        draw.shuffle(values)
    fields["captions"].sort(key=lambda caption: data.captions.index(caption))
    fields["captions"].sort(key=lambda caption: fields["images"].index(caption.image))
    return replace(data, **{name: tuple(values) for name, values in fields.items()})


@pytest.mark.parametrize(
    ("case", "method"),
    [
        ("retrieval", "dense"),
        ("retrieval", "elip"),
        ("retrieval-contrast", "dense"),
        ("retrieval-matching", "elip"),
        ("vqa", "elip"),
        ("entailment", "dense"),
        ("nlvr2", "dense"),
        ("nlvr2", "elip"),
        ("captioning", "elip"),
        ("classification", "dense"),
    ],
)
def test_neither_order_batches_threads_nor_budgets_change_an_outcome(case: str, method: str) -> None:
    data = scene_set(case)
    expected = results(evaluated(case, data, method, batch_size=64)[0])
    assert expected
    assert all(expected.values())
    other = shuffled(data, 1)
    assert other.images != data.images
    assert results(evaluated(case, other.in_order(), method, batch_size=7, threads=4)[0]) == expected
    tight = evaluated(case, data, method, batch_size=1, threads=1, budget=0, states_budget=0)[0]
    assert results(tight) == expected


@pytest.mark.parametrize("case", IN_ORDER_OF_IMAGES)
def test_an_image_is_encoded_once_even_where_there_is_no_room_for_its_tokens(case: str) -> None:
    shown = {one.image for name in ANNOTATIONS for one in getattr(scene_set(case), name) if name != "statements"}
    total = len(scene_set(case).images) if case in ("captioning", "retrieval-contrast") else len(shown)
    outcome, encoder = evaluated(case, batch_size=3, states_budget=0)
    # The probe asks for the classified images once more.
    assert encoder.encoded_images == total * (2 if "probe" in outcome.diagnostics else 1)


@pytest.mark.parametrize(("budget", "batch_size", "encoded"), [(2**30, 2, 7), (0, 2, 14), (0, 3, 14), (0, 4, 7)])
def test_re_ranking_encodes_each_image_once_at_most(budget: int, batch_size: int, encoded: int) -> None:
    """Beside once for the dual encoder, of which nothing is kept without room but the last two batches."""
    assert evaluated("retrieval", batch_size=batch_size, states_budget=budget)[1].encoded_images == encoded


@pytest.mark.parametrize("case", ["vqa", "entailment", "nlvr2", "captioning"])
def test_one_blank_image_stands_for_all_and_is_encoded_once(case: str) -> None:
    outcome, encoder = evaluated(case, blank=True)
    assert encoder.encoded_images == 1
    assert results(outcome) == results(evaluated(case, blank=True, batch_size=1, states_budget=0)[0])
    assert outcome.throughput.reading_seconds == 0
    assert evaluated(case, method="elip", blank=True)[1].encoded_images == (1 if case == "captioning" else 0)


@pytest.mark.parametrize(
    ("case", "unit", "samples"),
    [
        ("retrieval", "queries", 5 + 7),
        ("vqa", "questions", 13),
        ("entailment", "sentences", 13),
        ("nlvr2", "statements", 7),
        ("captioning", "images", 7),
        ("classification", "images", 11),
    ],
)
def test_every_task_tells_its_samples_and_seconds(case: str, unit: str, samples: int) -> None:
    """Of 11 captions, five of two scenes and one of a third, two of each count: five texts, and seven images."""
    found = evaluated(case)[0].throughput
    assert (found.unit, found.samples) == (unit, samples)
    assert found.model_seconds > 0
    assert found.reading_seconds > 0
    assert (found.aside_seconds > 0) == (case in ("retrieval", "vqa", "classification"))
