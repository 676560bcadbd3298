"""The built-in world's sizes and names: which of its scenes commands, training and evaluation use. Torch-free.

A name is a preset's (`scenes`, `scenes-small`), or a preset with sizes of its own behind a colon, as
`scenes:shapes=6,claims=2`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from harness.data.presets import BUILT_IN_WORLD, PRESETS, SMALL_WORLD
from harness.kit.errors import HarnessError
from harness.kit.registry import unknown
from harness.kit.settings import validated

__all__ = ["BUILT_IN_WORLD", "FULL", "SMALL_WORLD", "WORLDS", "WORLD_SEED", "World", "are_worlds", "world_of"]
# Of the world that is trained on and evaluated; the seed of a run draws other things, never another world.
WORLD_SEED = 0
TRAINING_SCENES = 30_000
_RANGE = re.compile(r"(\d+)-(\d+)")


class World(BaseModel):
    """How rich the built-in world is; the defaults are the full one's.

    `shapes`, `colours`: the first so many of `scene_layout.SHAPES` and COLOUR_NAMES. `objects`: fewest and most in a
    scene. `covered`: cells of 16 that hold an object or a distractor. `claims`: objects that a caption speaks of.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    shapes: Annotated[int, Field(ge=2, le=8)] = 8
    colours: Annotated[int, Field(ge=2, le=6)] = 6
    objects: tuple[Annotated[int, Field(ge=2)], Annotated[int, Field(le=16)]] = (6, 10)
    covered: Annotated[int, Field(le=16)] = 13
    claims: Annotated[int, Field(ge=1)] = 3

    @field_validator("objects", mode="before")
    @classmethod
    def _as_range(cls, value: Any) -> Any:
        found = _RANGE.fullmatch(value) if isinstance(value, str) else None
        return (found[1], found[2]) if found else value

    @model_validator(mode="after")
    def _can_be_drawn(self) -> World:
        (fewest, most), types = self.objects, self.types
        if not self.claims <= fewest <= most <= self.covered:
            raise ValueError(
                f"{self.claims} claims, {fewest}-{most} objects and {self.covered} covered cells: "
                "expected claims <= fewest objects <= most objects <= covered cells"
            )
        if most >= types:
            raise ValueError(f"up to {most} objects of {types} kinds: expected fewer, so that captions can be false")
        return self

    @property
    def types(self) -> int:
        """Kinds of object: a shape in a colour."""
        return self.shapes * self.colours

    @property
    def name(self) -> str:
        """A preset's name, or `scenes:` with the sizes in which it differs from the full world."""
        return next((name for name, world in WORLDS.items() if self == world), self.stated)

    @property
    def stated(self) -> str:
        """Its sizes, as far as they are not the full world's, in words that no preset's change can make others."""
        sizes = ((key, getattr(self, key)) for key, value in FULL if getattr(self, key) != value)
        words = (f"{key}={'-'.join(map(str, size)) if isinstance(size, tuple) else size}" for key, size in sizes)
        return f"{BUILT_IN_WORLD}:{','.join(words)}".removesuffix(":")


FULL = World()
WORLDS = {name: World(**sizes) for name, sizes in PRESETS.items()}


@lru_cache
def world_of(data: str) -> World | None:
    """The world that a name of data stands for, None for anything else, as a path.

    HarnessError for sizes that no world has and for values that cannot be.
    """
    preset, colon, sizes = data.partition(":")
    if preset not in WORLDS:
        return None
    if not colon:
        return WORLDS[preset]
    changes = dict[str, str]()
    for word in sizes.split(","):
        key, equals, value = word.partition("=")
        if key.strip() not in World.model_fields:
            raise unknown(f"size of the world in {data!r}", key.strip(), World.model_fields)
        if not equals:
            raise HarnessError(f"data {data!r}: {key} has no value; write it as {key}=4")
        changes[key.strip()] = value.strip()
    return validated(World, WORLDS[preset].model_dump() | changes, f"data {data!r}")


def are_worlds(sources: tuple[str, ...]) -> bool:
    """Whether all sources of data are built-in worlds, and there is one."""
    return bool(sources) and all(world_of(source) is not None for source in sources)
