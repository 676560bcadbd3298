"""The built-in world "scenes": crowded pictures of coloured shapes, drawn from a seed with integers only.

A scene is a 4 x 4 grid of cells of 16 x 16 pixels (2 x 2 patches of 8 pixels each). In the full world thirteen
cells are covered: 6 to 10 typed objects (a shape in a colour, all types of a scene distinct) and textured
distractors, which are of no type. What is worth keeping depends on the text, since a caption speaks of
three of the objects and a question of one or two. `harness.data.world.World` holds the sizes; smaller worlds
are drawn by the same steps, and their types have the numbers that they have in the full one.

Shapes are rasterised here with integer masks and random numbers come from the bare bit stream of PCG64,
so that a scene depends on (seed, split, index) alone, on any machine and under any version of Pillow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from harness.data.world import FULL, World

IMAGE_SIZE = 64
PATCH_SIZE = 8
GRID = 4
CELL = IMAGE_SIZE // GRID
PATCHES_PER_SIDE = IMAGE_SIZE // PATCH_SIZE

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (210, 45, 45),
    "green": (40, 165, 60),
    "blue": (50, 80, 225),
    "yellow": (228, 208, 45),
    "purple": (160, 55, 195),
    "white": (228, 228, 228),
}
SHAPES = ("circle", "square", "triangle", "diamond", "ring", "cross", "moon", "hourglass")
COLOUR_NAMES = tuple(COLOURS)
TYPES = len(SHAPES) * len(COLOURS)
PLACES = ("top left", "top right", "bottom left", "bottom right")
SPLITS = ("train", "val")

_STAMP = 14
_PALETTE = np.array(list(COLOURS.values()), dtype=np.int16)


class Bits:
    """Integers from the raw bit stream of PCG64, which NumPy promises never to change.

    The stream is keyed by a tuple of non-negative integers; nothing of NumPy's distributions is used.
    """

    def __init__(self, *key: int) -> None:
        self._source = np.random.PCG64(list(key))

    def below(self, bound: int) -> int:
        """An integer in [0, bound)."""
        return (int(self._source.random_raw()) >> 32) * bound >> 32

    def shuffled(self, items: range) -> list[int]:
        """All items in random order (Fisher-Yates)."""
        order = list(items)
        for last in range(len(order) - 1, 0, -1):
            other = self.below(last + 1)
            order[last], order[other] = order[other], order[last]
        return order

    def bytes(self, count: int) -> npt.NDArray[np.uint8]:
        """`count` random bytes (a multiple of 8), little-endian whatever the machine."""
        words: npt.NDArray[np.uint64] = self._source.random_raw(count // 8)
        return words.astype("<u8").view(np.uint8)


@dataclass(frozen=True)
class Thing:
    """A typed object: indices into SHAPES and COLOUR_NAMES, and its cell (0..15, row-major)."""

    shape: int
    colour: int
    cell: int

    @property
    def type(self) -> int:
        """0..47, shape-major."""
        return self.shape * len(COLOURS) + self.colour

    @property
    def row(self) -> int:
        """0 (top) .. 3."""
        return self.cell // GRID

    @property
    def column(self) -> int:
        """0 (left) .. 3."""
        return self.cell % GRID

    @property
    def place(self) -> int:
        """The quadrant, an index into PLACES."""
        return self.row // 2 * 2 + self.column // 2

    @property
    def patches(self) -> tuple[int, ...]:
        """The four patch indices (0..63, row-major) of its cell."""
        first = self.row * 2 * PATCHES_PER_SIDE + self.column * 2
        return (first, first + 1, first + PATCHES_PER_SIDE, first + PATCHES_PER_SIDE + 1)


@dataclass(frozen=True)
class Scene:
    """What a picture shows: its key, its typed objects, the cells that hold distractors, and the sizes it has."""

    seed: int
    split: str
    index: int
    things: tuple[Thing, ...]
    distractors: tuple[int, ...]
    world: World = FULL

    @cached_property
    def by_type(self) -> dict[int, Thing]:
        """Objects by type; types are distinct within a scene."""
        return {thing.type: thing for thing in self.things}

    @cached_property
    def by_cell(self) -> dict[int, Thing]:
        """Objects by cell."""
        return {thing.cell: thing for thing in self.things}

    def bits(self, purpose: int) -> Bits:
        """The scene's own random stream for one purpose (0 layout, 1 pixels, 2 captions, 3 questions…)."""
        return _stream(self.seed, self.split, self.index, purpose)


def _stream(seed: int, split: str, index: int, purpose: int) -> Bits:
    return Bits(seed, SPLITS.index(split), index, purpose)


def make_scene(seed: int, split: str, index: int, world: World = FULL) -> Scene:
    """Lay out scene `index` of a split ("train" or "val"; their streams never meet) for a seed."""
    bits = _stream(seed, split, index, 0)
    fewest, most = world.objects
    count = fewest + bits.below(most - fewest + 1)
    cells = bits.shuffled(range(GRID * GRID))[: world.covered]
    types = bits.shuffled(range(world.types))[:count]
    things = tuple(
        Thing(kind // world.colours, kind % world.colours, cell)
        for kind, cell in zip(types, cells[:count], strict=True)
    )
    return Scene(seed, split, index, things, tuple(cells[count:]), world)


def make_scenes(seed: int, split: str, count: int, world: World = FULL) -> Iterator[Scene]:
    """Scenes 0 .. count-1 of a split."""
    return (make_scene(seed, split, index, world) for index in range(count))


def shape_mask(name: str) -> npt.NDArray[np.bool_]:
    """The (14, 14) mask of a shape; coordinates are odd integers -13 .. 13 from the centre."""
    axis = np.arange(_STAMP) * 2 - (_STAMP - 1)
    y, x = axis[:, None], axis[None, :]
    across, along, radius = abs(x), abs(y), x * x + y * y
    masks = {
        "circle": radius <= 180,
        "square": (across <= 11) & (along <= 11),
        "triangle": 2 * across <= y + 14,
        "diamond": across + along <= 14,
        "ring": (radius <= 180) & (radius >= 56),
        "cross": (across <= 4) | (along <= 4),
        "moon": (radius <= 180) & ((x - 8) * (x - 8) + y * y >= 110),
        "hourglass": across <= along + 1,
    }
    return np.broadcast_to(masks[name], (_STAMP, _STAMP))


_MASKS = tuple(shape_mask(name)[:, :, None] for name in SHAPES)


def _textures() -> tuple[npt.NDArray[np.bool_], ...]:
    """(16, 16, 1) masks of the distractors' patterns: stripes three ways, checks, dots."""
    y, x = np.mgrid[0:CELL, 0:CELL]
    patterns = (
        y // 2 % 2 == 0,
        x // 2 % 2 == 0,
        (x + y) // 3 % 2 == 0,
        (x // 4 + y // 4) % 2 == 0,
        (x % 4 // 2 == 0) & (y % 4 // 2 == 0),
    )
    return tuple(pattern[:, :, None] for pattern in patterns)


_TEXTURES = _textures()


def render(scene: Scene) -> npt.NDArray[np.uint8]:
    """Draw a scene: (64, 64, 3) uint8, RGB."""
    bits, colours = scene.bits(1), scene.world.colours
    ground = np.array([40 + bits.below(90) for _ in range(3)], dtype=np.int16)
    canvas = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.int16)
    canvas[:] = ground
    for thing in scene.things:
        top = thing.row * CELL + bits.below(CELL - _STAMP + 1)
        left = thing.column * CELL + bits.below(CELL - _STAMP + 1)
        tint = np.array([bits.below(25) - 12 for _ in range(3)], dtype=np.int16)
        box = canvas[top : top + _STAMP, left : left + _STAMP]
        np.copyto(box, _PALETTE[thing.colour] + tint, where=_MASKS[thing.shape])
    for cell in scene.distractors:
        first = bits.below(colours)
        second = (first + 1 + bits.below(colours - 1)) % colours
        top, left = cell // GRID * CELL, cell % GRID * CELL
        texture = _TEXTURES[bits.below(len(_TEXTURES))]
        canvas[top : top + CELL, left : left + CELL] = np.where(texture, _PALETTE[first], _PALETTE[second])
    noise = bits.bytes(canvas.size).reshape(canvas.shape) & 31
    return np.clip(canvas + noise - 16, 0, 255).astype(np.uint8)


def patch_types(scene: Scene) -> npt.NDArray[np.int64]:
    """What each patch shows, (64,): the type 0..47 of the object whose cell holds it, otherwise 48."""
    shown = np.full(PATCHES_PER_SIDE * PATCHES_PER_SIDE, TYPES, dtype=np.int64)
    for thing in scene.things:
        shown[list(thing.patches)] = thing.type
    return shown
