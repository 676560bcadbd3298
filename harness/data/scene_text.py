"""Texts about a scene: captions, false captions and questions, and the patches that they speak of.

A caption is a list of claims, each of one object: "a red circle at top left", or "a blue ring just below the
red circle". A claim is checked against the layout, never against the pixels, so that truth is exact: `holds`
serves the tests, the oracle and the choice of false captions (foils).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.data.scene_layout import COLOUR_NAMES, GRID, PLACES, SHAPES, Bits, Scene, Thing
from harness.data.world import World

CAPTIONS_PER_SCENE = 5
RELATIONS = ("just left of", "just right of", "just above", "just below")
HEIGHTS, SIDES = ("top", "bottom"), ("left", "right")
ANSWERS = (*COLOUR_NAMES, *SHAPES, *HEIGHTS, *SIDES, "yes", "no")

_STEPS = ((0, -1), (0, 1), (-1, 0), (1, 0))
KINDS = ("colour", "colour", "colour", "shape", "shape", "shape", "height", "side", "place", "near", "near")
_TRIES = 50


@dataclass(frozen=True)
class Claim:
    """One object's clause: its type by shape and colour, and a place, or a relation to another object.

    `place` indexes PLACES, or is -1 and `relation` indexes RELATIONS with (`other_shape`, `other_colour`).
    """

    shape: int
    colour: int
    place: int = -1
    relation: int = -1
    other_shape: int = -1
    other_colour: int = -1

    @property
    def type(self) -> int:
        """0..47, as `Thing.type`."""
        return self.shape * len(COLOUR_NAMES) + self.colour

    @property
    def text(self) -> str:
        """The clause in words."""
        named = f"a {COLOUR_NAMES[self.colour]} {SHAPES[self.shape]}"
        if self.place >= 0:
            return f"{named} at {PLACES[self.place]}"
        other = f"{COLOUR_NAMES[self.other_colour]} {SHAPES[self.other_shape]}"
        return f"{named} {RELATIONS[self.relation]} the {other}"


@dataclass(frozen=True)
class SceneQuestion:
    """A question with its one-word answer (one of ANSWERS), its kind, and the patches it speaks of."""

    text: str
    answer: str
    kind: str
    patches: tuple[int, ...]


def caption_text(claims: Sequence[Claim]) -> str:
    """ "A, B and C" of the claims."""
    *others, last = (claim.text for claim in claims)
    return f"{', '.join(others)} and {last}" if others else last


def caption_patches(scene: Scene, claims: Sequence[Claim]) -> tuple[int, ...]:
    """Patches of the objects that a true caption speaks of, ascending."""
    things = [_find(scene, claim.shape, claim.colour) for claim in claims]
    return _patches(*(thing for thing in things if thing is not None))


def holds(scene: Scene, claims: Sequence[Claim]) -> bool:
    """Whether every claim is true of the scene."""
    return all(_claim_holds(scene, claim) for claim in claims)


def captions(scene: Scene, count: int = CAPTIONS_PER_SCENE) -> list[tuple[Claim, ...]]:
    """The scene's captions, all their claims true; the first `n` captions do not depend on `count`."""
    bits = scene.bits(2)
    return [_caption(scene, bits) for _ in range(count)]


def foil(scene: Scene, claims: Sequence[Claim], bits: Bits) -> tuple[Claim, ...]:
    """A caption that differs from a true one in one colour, shape or place, or in two swapped colours, and is false."""
    for _ in range(_TRIES):
        altered = _altered(list(claims), scene.world, bits)
        if not holds(scene, altered):
            return altered
    first = claims[0]
    absent = next(
        (shape, colour)
        for shape in range(scene.world.shapes)
        for colour in range(scene.world.colours)
        if _find(scene, shape, colour) is None
    )
    return (replace(first, shape=absent[0], colour=absent[1]), *claims[1:])


def questions(scene: Scene, count: int, kinds: Sequence[str] = KINDS) -> list[SceneQuestion]:
    """`count` different questions, each with one right answer; `kinds` are drawn from alike, so repeat to weight.

    Colours and shapes are asked for by place, heights and sides by name, and every object named is in the scene.
    """
    bits = scene.bits(3)
    asked: dict[str, SceneQuestion] = {}
    while len(asked) < count:
        question = _question(scene, kinds[bits.below(len(kinds))], bits)
        if question is not None:
            asked.setdefault(question.text, question)
    return list(asked.values())


def _find(scene: Scene, shape: int, colour: int) -> Thing | None:
    return scene.by_type.get(shape * len(COLOUR_NAMES) + colour)


def _patches(*things: Thing) -> tuple[int, ...]:
    return tuple(sorted({patch for thing in things for patch in thing.patches}))


def _neighbour(scene: Scene, thing: Thing, relation: int) -> Thing | None:
    """The object that stands in `relation` to `thing`, in the adjoining cell, if there is one."""
    down, right = _STEPS[relation]
    row, column = thing.row + down, thing.column + right
    if not (0 <= row < GRID and 0 <= column < GRID):
        return None
    return scene.by_cell.get(row * GRID + column)


def _claim_holds(scene: Scene, claim: Claim) -> bool:
    thing = _find(scene, claim.shape, claim.colour)
    if thing is None:
        return False
    if claim.place >= 0:
        return thing.place == claim.place
    other = _find(scene, claim.other_shape, claim.other_colour)
    return other is not None and _neighbour(scene, other, claim.relation) == thing


def _at(thing: Thing) -> Claim:
    return Claim(thing.shape, thing.colour, place=thing.place)


def _caption(scene: Scene, bits: Bits) -> tuple[Claim, ...]:
    order, count = [scene.things[index] for index in bits.shuffled(range(len(scene.things)))], scene.world.claims
    if bits.below(5) < 2:
        pairs = [
            (thing, relation, near)
            for thing in scene.things
            for relation in range(len(RELATIONS))
            if (near := _neighbour(scene, thing, relation)) is not None
        ]
        if pairs:
            thing, relation, near = pairs[bits.below(len(pairs))]
            others = [_at(other) for other in order if other not in (thing, near)]
            related = Claim(near.shape, near.colour, -1, relation, thing.shape, thing.colour)
            return (*others[: max(0, count - 2)], _at(thing), related)[-count:]
    return tuple(_at(thing) for thing in order[:count])


def _altered(claims: list[Claim], world: World, bits: Bits) -> tuple[Claim, ...]:
    at, change = bits.below(len(claims)), bits.below(5)
    claim = claims[at]
    if change <= 1:
        claims[at] = replace(claim, colour=_another(claim.colour, world.colours, bits))
    elif change == 2:
        claims[at] = replace(claim, shape=_another(claim.shape, world.shapes, bits))
    elif change == 3 and claim.place >= 0:
        claims[at] = replace(claim, place=_another(claim.place, len(PLACES), bits))
    elif change == 3:
        claims[at] = replace(claim, relation=_another(claim.relation, len(RELATIONS), bits))
    else:
        other = (at + 1) % len(claims)
        claims[at], claims[other] = (
            replace(claim, colour=claims[other].colour),
            replace(claims[other], colour=claim.colour),
        )
    return tuple(claims)


def _another(value: int, bound: int, bits: Bits) -> int:
    return (value + 1 + bits.below(bound - 1)) % bound


def _question(scene: Scene, kind: str, bits: Bits) -> SceneQuestion | None:
    """A question of one kind about a random object, or None where it would be ambiguous."""
    thing = scene.things[bits.below(len(scene.things))]
    named = f"{COLOUR_NAMES[thing.colour]} {SHAPES[thing.shape]}"
    place = PLACES[thing.place]
    here = [other for other in scene.things if other.place == thing.place]
    if kind == "colour":
        if sum(other.shape == thing.shape for other in here) > 1:
            return None
        text = f"what color is the {SHAPES[thing.shape]} at {place}?"
        return SceneQuestion(text, COLOUR_NAMES[thing.colour], kind, thing.patches)
    if kind == "shape":
        if sum(other.colour == thing.colour for other in here) > 1:
            return None
        text = f"what {COLOUR_NAMES[thing.colour]} shape is at {place}?"
        return SceneQuestion(text, SHAPES[thing.shape], kind, thing.patches)
    if kind == "height":
        return SceneQuestion(f"is the {named} at top or bottom?", HEIGHTS[thing.row // 2], kind, thing.patches)
    if kind == "side":
        return SceneQuestion(f"is the {named} at left or right?", SIDES[thing.column // 2], kind, thing.patches)
    if kind == "place":
        true = bits.below(2) == 1
        asked = place if true else PLACES[_another(thing.place, len(PLACES), bits)]
        return SceneQuestion(f"is the {named} at {asked}?", "yes" if true else "no", kind, thing.patches)
    relation = bits.below(len(RELATIONS))
    near = _neighbour(scene, thing, relation)
    if near is None:
        return None
    if bits.below(2):
        text, answer = f"what color is the shape {RELATIONS[relation]} the {named}?", COLOUR_NAMES[near.colour]
    else:
        text, answer = f"what shape is {RELATIONS[relation]} the {named}?", SHAPES[near.shape]
    return SceneQuestion(text, answer, "near", _patches(thing, near))
