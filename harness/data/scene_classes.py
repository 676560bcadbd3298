"""The built-in world's images of classes: one object, whose colour and shape are the class, among distractors.

They are drawn as scenes are, from indices that no scene has, so that what was learnt of scenes applies to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from harness.data.scene_layout import COLOUR_NAMES, GRID, PLACES, SHAPES, TYPES, Scene, Thing
from harness.data.world import FULL, World

# A sentence about a class for each place, and one for none: captions name places.
TEMPLATES = ("a {}", *(f"a {{}} at {place}" for place in PLACES))

_FIRST_INDEX = 10**9


def class_scenes(seed: int, split: str, count: int, world: World = FULL) -> Iterator[Scene]:
    """The first `count` images of each class, in the order of types and then of numbers."""
    return (
        _class_scene(seed, split, (shape, colour), number, world)
        for shape in range(world.shapes)
        for colour in range(world.colours)
        for number in range(count)
    )


def class_name(scene: Scene) -> str:
    """The class of an image of `class_scenes`, as a folder's name: red_circle."""
    (thing,) = scene.things
    return f"{COLOUR_NAMES[thing.colour]}_{SHAPES[thing.shape]}"


def _class_scene(seed: int, split: str, kind: tuple[int, int], number: int, world: World) -> Scene:
    thing = Thing(*kind, cell=0)
    empty = Scene(seed, split, _FIRST_INDEX + number * TYPES + thing.type, (), (), world)
    cell, *others = empty.bits(0).shuffled(range(GRID * GRID))[: world.covered]
    return replace(empty, things=(replace(thing, cell=cell),), distractors=tuple(others))
