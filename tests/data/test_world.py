"""Facts about the world's sizes: names say them, all that is drawn keeps to them, and the full world is the default."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from harness.data import scenes as files
from harness.data.scene_classes import class_name, class_scenes
from harness.data.scene_layout import COLOUR_NAMES, PLACES, SHAPES, Scene, make_scene, make_scenes, render
from harness.data.scene_statements import hypotheses, statements
from harness.data.scene_text import caption_text, captions, foil, holds, questions
from harness.data.world import FULL, SMALL_WORLD, World, are_worlds, world_of
from harness.kit.errors import HarnessError

SMALL_PIXELS = "341c4d03790b51191e48339dc8c4f01f2408b29bac9724e108169cb6e87d518e"
SMALL_TEXTS = "54e29721933f0b929d6ef419b1925056d16f0b71a418cd9ddf910f81231e6821"


@pytest.fixture(scope="module")
def small() -> World:
    world = world_of(SMALL_WORLD)
    assert world is not None
    return world


@pytest.fixture(scope="module")
def scenes(small: World) -> list[Scene]:
    return list(make_scenes(0, "val", 120, small))


def test_the_full_world_has_every_shape_and_colour() -> None:
    assert (FULL.shapes, FULL.colours) == (len(SHAPES), len(COLOUR_NAMES))
    assert world_of("scenes") == FULL
    assert make_scene(0, "val", 7) == make_scene(0, "val", 7, FULL)


def test_the_small_world_is_pinned(small: World, scenes: list[Scene]) -> None:
    pixels = hashlib.sha256(b"".join(render(scene).tobytes() for scene in scenes[:20]))
    first = scenes[:20]
    said = [files.coco_captions(first), *files.vqa_v2(first, "val", 4), files.albef_ve(first), files.albef_nlvr(first)]
    assert pixels.hexdigest() == SMALL_PIXELS
    assert hashlib.sha256(json.dumps(said).encode()).hexdigest() == SMALL_TEXTS


def test_scenes_keep_to_their_sizes(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert 4 <= len(scene.things) <= 6
        assert len(scene.things) + len(scene.distractors) == 10
        assert all(thing.shape < 5 and thing.colour < 4 for thing in scene.things)
    assert len({thing.type for scene in scenes for thing in scene.things}) == 20


def test_texts_name_nothing_beyond_their_world(scenes: list[Scene]) -> None:
    beyond = {*SHAPES[5:], *COLOUR_NAMES[4:]}
    for scene in scenes:
        bits = scene.bits(4)
        said = [*captions(scene), *(foil(scene, claims, bits) for claims in captions(scene))]
        texts = [caption_text(claims) for claims in said]
        texts += [f"{one.text} {one.answer}" for one in questions(scene, 8)] + [one.text for one in hypotheses(scene)]
        assert not beyond & {word.strip("?,") for text in texts for word in text.split()}
        assert [holds(scene, claims) for claims in said] == [True] * 5 + [False] * 5
    words = {word for one in statements(scenes) for word in one.text.split()}
    assert not beyond & words
    assert {"circles", "square", "red"} <= words


def test_classes_are_those_of_the_world(small: World) -> None:
    names = [class_name(scene) for scene in class_scenes(0, "val", 2, small)]
    assert names[:4] == ["red_circle", "red_circle", "green_circle", "green_circle"]
    assert (len(set(names)), len(names)) == (20, 40)


@pytest.mark.parametrize(("claims", "shape"), [(1, "{}"), (2, "{} and {}"), (4, "{}, {}, {} and {}")])
def test_captions_make_as_many_claims_as_asked(claims: int, shape: str) -> None:
    for scene in make_scenes(0, "val", 30, World(claims=claims)):
        for caption in captions(scene):
            assert (len(caption), holds(scene, caption)) == (claims, True)
            assert caption_text(caption) == shape.format(*(claim.text for claim in caption))


def test_names_say_sizes_and_sizes_names() -> None:
    sized = world_of("scenes:shapes=6,objects=3-5,claims=2")
    assert sized == World(shapes=6, objects=(3, 5), claims=2)
    assert sized.name == "scenes:shapes=6,objects=3-5,claims=2"
    assert world_of(sized.name) == sized
    assert World(shapes=5, colours=4, objects=(4, 6), covered=10).name == SMALL_WORLD
    assert world_of("scenes-small:covered=16") == World(shapes=5, colours=4, objects=(4, 6), covered=16)
    assert [world_of(name) for name in ("coco", "scenes/train", "/data/scenes")] == [None] * 3
    assert [are_worlds(names) for names in (("scenes", SMALL_WORLD), ("scenes", "coco"), ())] == [True, False, False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("scenes:size=3", "unknown size of the world in 'scenes:size=3' 'size': known: claims, colours, covered"),
        ("scenes:shapes", "data 'scenes:shapes': shapes has no value; write it as shapes=4"),
        ("scenes:shapes=9", "data 'scenes:shapes=9': shapes: Input should be less than or equal to 8"),
        ("scenes:objects=many", "data 'scenes:objects=many': objects: "),
        ("scenes:claims=7", "7 claims, 6-10 objects and 13 covered cells: expected claims <= fewest objects"),
        ("scenes:covered=9", "3 claims, 6-10 objects and 9 covered cells: expected"),
        ("scenes:shapes=2,colours=3", "up to 10 objects of 6 kinds: expected fewer, so that captions can be false"),
    ],
)
def test_a_world_that_cannot_be_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(HarnessError) as caught:
        world_of(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_world_has_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: World) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    folders = [files.scenes_folder(2, 0, world=world) for world in (FULL, small, World(claims=2))]
    # By its sizes: a preset that is changed finds no scenes of what it was before.
    named = [re.sub(r"\W+", "-", world.stated) for world in (FULL, small, World(claims=2))]
    assert [folder.name.partition("-val")[0] for folder in folders] == named
    assert (named[0], named[2]) == ("scenes", "scenes-claims-2")
    assert named[1].startswith("scenes-shapes-")
    said = [json.loads((folder / "captions_val.json").read_text())["annotations"][0] for folder in folders]
    assert len({one["caption"] for one in said}) == 3
    assert len(list((folders[1] / "classes" / "val").iterdir())) == 20


def test_the_oracle_finds_fewer_in_a_smaller_world(small: World) -> None:
    assert len(PLACES) * small.types == 80
    assert 0.8 < files.oracle_recall(300, world=small) < files.oracle_recall(300)
