"""The built-in world's images of classes: one object, whose colour and shape are the class, among distractors.

They are drawn as scenes are, from indices that no scene has, so that what was learnt of scenes applies to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from harness.data.scene_layout import COLOUR_NAMES, COVERED_CELLS, GRID, PLACES, SHAPES, TYPES, Scene, Thing

# A sentence about a class for each place, and one for none: captions name places.
TEMPLATES = ("a {}", *(f"a {{}} at {place}" for place in PLACES))

_FIRST_INDEX = 10**9


def class_scenes(seed: int, split: str, count: int) -> Iterator[Scene]:
    """The first `count` images of each class, in the order of types and then of numbers."""
    return (_class_scene(seed, split, kind, number) for kind in range(TYPES) for number in range(count))


def class_name(scene: Scene) -> str:
    """The class of an image of `class_scenes`, as a folder's name: red_circle."""
    (thing,) = scene.things
    return f"{COLOUR_NAMES[thing.colour]}_{SHAPES[thing.shape]}"


def _class_scene(seed: int, split: str, kind: int, number: int) -> Scene:
    empty = Scene(seed, split, _FIRST_INDEX + number * TYPES + kind, (), ())
    cell, *others = empty.bits(0).shuffled(range(GRID * GRID))[:COVERED_CELLS]
    thing = Thing(kind // len(COLOUR_NAMES), kind % len(COLOUR_NAMES), cell)
    return replace(empty, things=(thing,), distractors=tuple(others))
