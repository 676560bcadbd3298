"""Facts about the built-in world: it is the same everywhere, what is said of it is true, and foils are not."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from harness.data import scenes as files
from harness.data.scene_layout import (
    SHAPES,
    TYPES,
    Bits,
    Scene,
    Thing,
    make_scene,
    make_scenes,
    patch_types,
    render,
    shape_mask,
)
from harness.data.scene_text import (
    ANSWERS,
    RELATIONS,
    Claim,
    caption_patches,
    caption_text,
    captions,
    foil,
    holds,
    questions,
)

PIXELS = "6fddac8d480bc1d7abd06a30a5ff255f6d86ab2937bb7aea732b6f4ae8bd5971"
TEXTS = "abb8c4901a5020781c7ff054751b04e48022598cde77ce6c54f6f19891f0d8cf"
RED, GREEN, BLUE = 0, 1, 2
CIRCLE, SQUARE, RING = SHAPES.index("circle"), SHAPES.index("square"), SHAPES.index("ring")


@pytest.fixture(scope="module")
def world() -> list[Scene]:
    return list(make_scenes(0, "val", 150))


@pytest.fixture
def small() -> Scene:
    """Red circle top left; blue ring just right of it; green square bottom right."""
    things = (Thing(CIRCLE, RED, 0), Thing(RING, BLUE, 1), Thing(SQUARE, GREEN, 15))
    return Scene(0, "val", 0, things, ())


def test_pixels_are_pinned() -> None:
    digest = hashlib.sha256(b"".join(render(scene).tobytes() for scene in make_scenes(0, "val", 20)))
    assert digest.hexdigest() == PIXELS


def test_annotations_are_pinned() -> None:
    scenes = list(make_scenes(0, "val", 20))
    said = [files.coco_captions(scenes), *files.vqa_v2(scenes, "val", 4)]
    assert hashlib.sha256(json.dumps(said).encode()).hexdigest() == TEXTS


def test_bits_are_the_documented_stream() -> None:
    assert [Bits(1, 2).below(1000) for _ in range(2)] == [Bits(1, 2).below(1000)] * 2
    bits = Bits(7)
    assert sorted(bits.shuffled(range(10))) == list(range(10))
    assert all(0 <= bits.below(3) < 3 for _ in range(100))


def test_training_and_held_out_scenes_differ() -> None:
    assert not any(make_scene(0, "train", index).things == make_scene(0, "val", index).things for index in range(50))


def test_scenes_are_crowded_and_their_types_distinct(world: list[Scene]) -> None:
    for scene in world:
        assert 6 <= len(scene.things) <= 10
        assert len(scene.by_type) == len(scene.by_cell) == len(scene.things)
        assert len(scene.things) + len(scene.distractors) == scene.world.covered == 13
        assert not set(scene.by_cell) & set(scene.distractors)


def test_typed_objects_alone_cover_about_half_of_the_patches(world: list[Scene]) -> None:
    share = np.mean([(patch_types(scene) < TYPES).mean() for scene in world])
    assert 0.45 < share < 0.55


def test_masks_differ_and_reach_every_patch_of_their_cell() -> None:
    masks = [shape_mask(name) for name in SHAPES]
    assert len({mask.tobytes() for mask in masks}) == len(SHAPES)
    for mask in masks:
        assert all(part.any() for rows in np.split(mask, 2) for part in np.split(rows, 2, axis=1))


def test_captions_are_true_name_three_objects_and_their_patches(world: list[Scene]) -> None:
    for scene in world:
        for claims in captions(scene):
            assert holds(scene, claims)
            assert len({claim.type for claim in claims}) == 3
            assert len(caption_patches(scene, claims)) == 12


def test_fewer_captions_are_the_first_ones(world: list[Scene]) -> None:
    assert captions(world[0], 2) == captions(world[0])[:2]


def test_foils_are_false_and_differ(world: list[Scene]) -> None:
    for scene in world:
        bits = scene.bits(4)
        for claims in captions(scene):
            wrong = foil(scene, claims, bits)
            assert not holds(scene, wrong)
            assert caption_text(wrong) != caption_text(claims)


def test_claims_are_checked_against_the_layout(small: Scene) -> None:
    red_circle, green_square = Claim(CIRCLE, RED, place=0), Claim(SQUARE, GREEN, place=3)
    beside = Claim(RING, BLUE, relation=RELATIONS.index("just right of"), other_shape=CIRCLE, other_colour=RED)
    below = Claim(RING, BLUE, relation=RELATIONS.index("just below"), other_shape=CIRCLE, other_colour=RED)
    assert holds(small, (red_circle, green_square, beside))
    assert not holds(small, (below,))
    assert not holds(small, (Claim(CIRCLE, RED, place=1),))
    assert not holds(small, (Claim(CIRCLE, BLUE, place=0),))
    text = "a red circle at top left, a green square at bottom right and a blue ring just right of the red circle"
    assert caption_text((red_circle, green_square, beside)) == text
    assert caption_patches(small, (red_circle, beside)) == (0, 1, 2, 3, 8, 9, 10, 11)


def test_questions_have_one_right_answer(world: list[Scene]) -> None:
    for scene in world:
        by_text: dict[str, str] = {}
        for question in questions(scene, 8):
            assert question.answer in ANSWERS
            assert by_text.setdefault(question.text, question.answer) == question.answer
            assert len(question.patches) in {4, 8}
            words = question.text.rstrip("?").split()
            if question.kind == "colour":
                place = " ".join(words[-2:])
                here = [thing for thing in scene.things if place_in_words(thing) == place]
                assert [thing for thing in here if SHAPES[thing.shape] == words[4]] == [
                    thing for thing in here if thing.patches == question.patches
                ]


def place_in_words(thing: Thing) -> str:
    """The place of a thing in words."""
    return ("top " if thing.row < 2 else "bottom ") + ("left" if thing.column < 2 else "right")


def test_guessing_without_the_picture_stays_below_a_third(world: list[Scene]) -> None:
    tally: dict[str, dict[str, int]] = {}
    for scene in world:
        for question in questions(scene, 4):
            form = " ".join(word for word in question.text.split()[:3])
            answers = tally.setdefault(form if question.kind != "place" else "is", {})
            answers[question.answer] = answers.get(question.answer, 0) + 1
    best = sum(max(answers.values()) for answers in tally.values())
    assert best / sum(sum(answers.values()) for answers in tally.values()) < 0.35


def test_oracle_shares_ties_fairly() -> None:
    truth = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 1, 1]], dtype=bool)
    t2i, i2t = files.oracle_r1(truth)
    assert t2i == pytest.approx((1 / 2 + 1 + 1 + 1 / 4) / 4)
    assert i2t == pytest.approx((1 / 2 + 1 / 3 + 1 / 2 + 1) / 4)


def test_oracle_reaches_its_floor() -> None:
    assert files.oracle_recall(300) > 0.6
