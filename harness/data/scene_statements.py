"""What is claimed of scenes: hypotheses about one, for visual entailment, and statements about two, as in NLVR2.

A hypothesis speaks of an object by one attribute and gives it another: "the ring is red". Where several objects
answer to the first, the image leaves open which is meant. So it is entailed when it is true of each of them,
contradicted when it is true of none (or there is none), and neutral when it is true of some only. The three kinds
share their words and forms, and the image has to be seen to tell them apart.

A statement comes with a pair of scenes of which it is true and one of which it is false, so that whoever sees no
image is right half of the time. All words, plurals apart, are in the vocabulary of the tiny hosts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, permutations
from typing import TypeVar

from harness.data.scene_layout import COLOUR_NAMES, PLACES, SHAPES, Bits, Scene, Thing

# The spelling and the order of SNLI-VE's labels in `harness.hosts.host`.
VERDICTS = ("contradiction", "neutral", "entailment")
STATEMENT_FORMS = (
    "there is {} in both images",
    "there is {} in only one image",
    "there is {} in the left image only",
    "there is {} in the right image only",
    "there are more {} in the left image than in the right image",
    "there are more {} in the right image than in the left image",
)
# Statements compare scenes with others of the same block of so many.
BLOCK = 4

_ANY = -1
_NAMES = (SHAPES, COLOUR_NAMES, PLACES)
_SUBJECTS = ("the {}", "the {} shape", "the shape at {}")
_PREDICATES = ("is {}", "is {}", "is at {}")
_HYPOTHESIS_FORMS = tuple(permutations(range(len(_NAMES)), 2))

# An object's shape, colour and place, each an index or _ANY: what a statement names.
Named = tuple[int, int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class SceneHypothesis:
    """A sentence, which of VERDICTS the scene gives it, and the patches of all objects that its subject may mean."""

    text: str
    label: str
    patches: tuple[int, ...]


@dataclass(frozen=True)
class SceneStatement:
    """A sentence about two scenes and whether it is true; the two statements of a `group` are the same sentence."""

    text: str
    left: Scene
    right: Scene
    label: bool
    group: str


def hypotheses(scene: Scene) -> list[SceneHypothesis]:
    """One hypothesis of each verdict in random order, all of one form where the scene has such a form.

    In the rare scene of which nothing of these forms is entailed there is none of that verdict.
    """
    bits = scene.bits(5)
    chosen: dict[str, tuple[int, int, list[tuple[int, int]]]] = {}
    for form in bits.shuffled(range(len(_HYPOTHESIS_FORMS))):
        subject, predicate = _HYPOTHESIS_FORMS[form]
        sorted_out = _by_verdict(scene, subject, predicate)
        possible = {label: (subject, predicate, pairs) for label, pairs in sorted_out.items() if pairs}
        if len(possible) == len(VERDICTS):
            chosen = possible
            break
        chosen = possible | chosen
    found = []
    for label in (VERDICTS[index] for index in bits.shuffled(range(len(VERDICTS)))):
        if label in chosen:
            subject, predicate, pairs = chosen[label]
            of, said = pairs[bits.below(len(pairs))]
            meant = [thing for thing in scene.things if _attributes(thing)[subject] == of]
            found.append(SceneHypothesis(_hypothesis(subject, of, predicate, said), label, _patches(meant)))
    return found


def statements(scenes: Sequence[Scene]) -> Iterator[SceneStatement]:
    """A sentence per scene, twice: true of a pair whose left image is that scene, and false of another pair.

    Both pairs are of the scene's block of BLOCK scenes, on which alone a block's statements depend. A last block of a
    single scene has none.
    """
    for start in range(0, len(scenes), BLOCK):
        block = [_Content(scene) for scene in scenes[start : start + BLOCK]]
        if len(block) > 1:
            yield from _of_block(block)


class _Content:
    """What there is in a scene to be named in a statement."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    @cached_property
    def shown(self) -> frozenset[Named]:
        """Every object by two of its attributes."""
        all_named = (_attributes(thing) for thing in self.scene.things)
        return frozenset(
            chain.from_iterable(
                ((shape, colour, _ANY), (shape, _ANY, place), (_ANY, colour, place))
                for shape, colour, place in all_named
            )
        )

    @cached_property
    def counts(self) -> Counter[Named]:
        """How many objects there are of each shape and of each colour."""
        found: Counter[Named] = Counter()
        for thing in self.scene.things:
            found[thing.shape, _ANY, _ANY] += 1
            found[_ANY, thing.colour, _ANY] += 1
        return found


def _of_block(block: Sequence[_Content]) -> Iterator[SceneStatement]:
    first = block[0].scene
    bits, said = first.bits(6), set[str]()
    pairs = list(permutations(block, 2))
    for number, opening in enumerate(block):
        while True:
            true_of = _drawn([pair for pair in pairs if pair[0] is opening], bits)
            false_of = _drawn([pair for pair in pairs if pair != true_of], bits)
            form = bits.below(len(STATEMENT_FORMS))
            named = _true(form, *true_of) - _true(form, *false_of)
            # A sentence about what the other pair shows too cannot be judged by looking for its objects alone.
            seen = [one for one in named if any(one in content.shown or one in content.counts for content in false_of)]
            if named and (text := _statement(form, _drawn(sorted(seen or named), bits))) not in said:
                break
        said.add(text)
        both = [(*true_of, True), (*false_of, False)]
        for left, right, label in both if bits.below(2) else reversed(both):
            yield SceneStatement(text, left.scene, right.scene, label, f"{first.index}-{number}")


def _true(form: int, left: _Content, right: _Content) -> frozenset[Named]:
    """What may be named for a statement of this form (of STATEMENT_FORMS) to be true of the pair."""
    if form == 0:
        return left.shown & right.shown
    if form == 1:
        return left.shown ^ right.shown
    if form == 2:
        return left.shown - right.shown
    if form == 3:
        return right.shown - left.shown
    more, fewer = (left.counts, right.counts) if form == 4 else (right.counts, left.counts)
    return frozenset(one for one, count in more.items() if count > fewer[one])


def _drawn(items: Sequence[T], bits: Bits) -> T:
    return items[bits.below(len(items))]


def _attributes(thing: Thing) -> Named:
    return thing.shape, thing.colour, thing.place


def _by_verdict(scene: Scene, subject: int, predicate: int) -> dict[str, list[tuple[int, int]]]:
    """All sentences of a form, as a subject's and a predicate's value, by the verdict that the scene gives them."""
    found: dict[str, list[tuple[int, int]]] = {label: [] for label in VERDICTS}
    known = scene.world.shapes, scene.world.colours, len(PLACES)
    values: list[set[int]] = [set() for _ in range(known[subject])]
    for thing in map(_attributes, scene.things):
        values[thing[subject]].add(thing[predicate])
    for of, true in enumerate(values):
        for said in range(known[predicate]):
            label = "contradiction" if said not in true else "entailment" if len(true) == 1 else "neutral"
            found[label].append((of, said))
    return found


def _hypothesis(subject: int, of: int, predicate: int, said: int) -> str:
    what = _NAMES[predicate][said]
    given = _PREDICATES[predicate].format(_with_article(what) if predicate == 0 else what)
    return f"{_SUBJECTS[subject].format(_NAMES[subject][of])} {given}"


def _statement(form: int, named: Named) -> str:
    shape, colour, place = named
    noun = SHAPES[shape] if shape != _ANY else "shape"
    words = f"{COLOUR_NAMES[colour]} {noun}" if colour != _ANY else noun
    if place == _ANY and _ANY in (shape, colour):
        return STATEMENT_FORMS[form].format(f"{words}es" if words.endswith("s") else f"{words}s")
    where = f" at {PLACES[place]}" if place != _ANY else ""
    return STATEMENT_FORMS[form].format(f"{_with_article(words)}{where}")


def _with_article(words: str) -> str:
    return f"an {words}" if words == "hourglass" else f"a {words}"


def _patches(things: Sequence[Thing]) -> tuple[int, ...]:
    return tuple(sorted(chain.from_iterable(thing.patches for thing in things)))
