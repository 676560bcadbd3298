"""Facts about what is claimed of scenes: every label is right, and text alone gives it away as little as it should."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable

import pytest

from harness.data.annotations.records import ENTAILMENT_LABELS
from harness.data.scene_layout import COLOUR_NAMES, PLACES, SHAPES, Scene, Thing, make_scenes
from harness.data.scene_statements import (
    BLOCK,
    STATEMENT_FORMS,
    VERDICTS,
    SceneHypothesis,
    SceneStatement,
    hypotheses,
    statements,
)

CIRCLE, RING, SQUARE = (SHAPES.index(name) for name in ("circle", "ring", "square"))
RED, BLUE = (COLOUR_NAMES.index(name) for name in ("red", "blue"))
PLURALS = {f"{name}es" if name.endswith("s") else f"{name}s": name for name in (*SHAPES, "shape")}
HYPOTHESIS = re.compile(r"the (?P<subject>.+) is (?:an? |at )?(?P<predicate>[a-z ]+?)")
SHOWN = re.compile(r"there is an? (?P<named>.+) in (?P<where>both images|only one image|the (?:left|right) image only)")
MORE = re.compile(r"there are more (?P<named>.+) in the (?P<more>left|right) image than in the (?P<fewer>\w+) image")


@pytest.fixture(scope="module")
def world() -> list[Scene]:
    return list(make_scenes(0, "val", 600))


@pytest.fixture(scope="module")
def claimed(world: list[Scene]) -> list[tuple[Scene, SceneHypothesis]]:
    return [(scene, one) for scene in world for one in hypotheses(scene)]


@pytest.fixture(scope="module")
def said(world: list[Scene]) -> list[SceneStatement]:
    return list(statements(world))


def answering(scene: Scene, words: str) -> list[Thing]:
    """The objects of a scene to which all of some words apply: "red shape", "ring at top left"."""
    what, _, place = words.partition("at ")
    wanted = {*what.split(), *([place] if place else [])} - {"shape"}
    return [thing for thing in scene.things if wanted <= told(thing)]


def told(thing: Thing) -> set[str]:
    place = ("top " if thing.row < 2 else "bottom ") + ("left" if thing.column < 2 else "right")
    return {SHAPES[thing.shape], COLOUR_NAMES[thing.colour], place}


def verdict(scene: Scene, text: str) -> str:
    match = HYPOTHESIS.fullmatch(text)
    assert match, text
    fitting = [match["predicate"] in told(thing) for thing in answering(scene, match["subject"])]
    if not any(fitting):
        return "contradiction"
    return "entailment" if all(fitting) else "neutral"


def is_true(left: Scene, right: Scene, text: str) -> bool:
    more = MORE.fullmatch(text)
    if more:
        words = more["named"].split()
        named = " ".join([*words[:-1], PLURALS[words[-1]]])
        count = {"left": len(answering(left, named)), "right": len(answering(right, named))}
        return count[more["more"]] > count[more["fewer"]]
    match = SHOWN.fullmatch(text)
    assert match, text
    shown = (bool(answering(left, match["named"])), bool(answering(right, match["named"])))
    by_place = {"both images": {(True, True)}, "only one image": {(True, False), (False, True)}}
    by_place |= {"the left image only": {(True, False)}, "the right image only": {(False, True)}}
    return shown in by_place[match["where"]]


def word_rule(known: Iterable[tuple[str, str]], asked: Iterable[tuple[str, str]]) -> float:
    """Accuracy of naive Bayes on the words and pairs of words of (text, label), learnt from others."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for text, label in known:
        counts[label].update(parts(text))

    def score(label: str, text: str) -> float:
        total = sum(counts[label].values())
        return sum(math.log((counts[label][part] + 1) / (total + 1)) for part in parts(text))

    right = [max(VERDICTS, key=lambda label: score(label, text)) == label for text, label in asked]
    return sum(right) / len(right)


def parts(text: str) -> list[str]:
    words = text.split()
    return [*words, *(f"{one} {other}" for one in words for other in words if one < other)]


def test_verdicts_are_the_labels_of_entailment() -> None:
    assert VERDICTS == ENTAILMENT_LABELS


def test_every_hypothesis_has_the_label_that_its_scene_gives_it(claimed: list[tuple[Scene, SceneHypothesis]]) -> None:
    assert [(one.text, one.label) for _, one in claimed] == [
        (one.text, verdict(scene, one.text)) for scene, one in claimed
    ]


def test_each_scene_has_one_of_each_verdict_in_any_order(world: list[Scene]) -> None:
    orders = Counter(tuple(one.label for one in hypotheses(scene)) for scene in world)
    assert {frozenset(order) for order in orders} == {frozenset(VERDICTS)}
    assert len(orders) == 6
    assert min(orders.values()) > 60


def test_a_hypothesis_lies_where_the_objects_do_that_it_may_mean(claimed: list[tuple[Scene, SceneHypothesis]]) -> None:
    for scene, one in claimed:
        match = HYPOTHESIS.fullmatch(one.text)
        assert match
        meant = answering(scene, match["subject"])
        assert one.patches == tuple(sorted(patch for thing in meant for patch in thing.patches))
        assert one.patches or one.label == "contradiction"


def test_what_is_said_of_three_objects() -> None:
    # A red circle and a red ring at top left, a blue ring at bottom right.
    things = (Thing(CIRCLE, RED, 0), Thing(RING, RED, 1), Thing(RING, BLUE, 15))
    found = defaultdict(set)
    for index in range(3000):
        for one in hypotheses(Scene(0, "val", index, things, ())):
            found[one.label].add(one.text)
    assert found["entailment"] == {
        "the circle is red",
        "the circle is at top left",
        "the blue shape is a ring",
        "the shape at bottom right is a ring",
    }
    assert found["neutral"] == {
        "the ring is red",
        "the ring is blue",
        "the ring is at top left",
        "the ring is at bottom right",
        "the red shape is a circle",
        "the red shape is a ring",
        "the shape at top left is a circle",
        "the shape at top left is a ring",
    }
    assert {"the circle is blue", "the ring is white", "the moon is red", "the red shape is an hourglass"} <= (
        found["contradiction"]
    )


def test_forms_are_mixed_where_none_has_every_verdict() -> None:
    things = (Thing(CIRCLE, RED, 0), Thing(RING, RED, 1))
    assert {one.label for one in hypotheses(Scene(0, "val", 0, things, ()))} == set(VERDICTS)
    apart = (Thing(CIRCLE, RED, 0), Thing(RING, BLUE, 15))
    assert {one.label for one in hypotheses(Scene(0, "val", 0, apart, ()))} == {"contradiction", "entailment"}


def test_words_do_not_tell_the_verdict(claimed: list[tuple[Scene, SceneHypothesis]]) -> None:
    known = [(one.text, one.label) for scene in make_scenes(0, "train", 1500) for one in hypotheses(scene)]
    asked = [(one.text, one.label) for _, one in claimed]
    assert word_rule(known, asked) < 0.45
    by_text: dict[str, Counter[str]] = defaultdict(Counter)
    for text, label in known:
        by_text[text][label] += 1
    guessed = [bool(by_text[text]) and by_text[text].most_common(1)[0][0] == label for text, label in asked]
    assert sum(guessed) / len(guessed) < 0.45


def test_the_word_rule_finds_what_words_do_tell() -> None:
    texts = [("it is red", "entailment"), ("it is heavy", "neutral"), ("it is not", "contradiction")] * 5
    assert word_rule(texts, texts[:3]) == 1


def test_every_statement_is_judged_rightly(said: list[SceneStatement]) -> None:
    assert [one.label for one in said] == [is_true(one.left, one.right, one.text) for one in said]


def test_truth_of_statements_about_two_small_scenes() -> None:
    left = Scene(0, "val", 0, (Thing(CIRCLE, RED, 0), Thing(RING, RED, 1)), ())
    right = Scene(0, "val", 1, (Thing(RING, BLUE, 15), Thing(SQUARE, RED, 0)), ())
    assert is_true(left, right, "there is a red shape at top left in both images")
    assert is_true(left, right, "there is a red ring in the left image only")
    assert not is_true(left, right, "there is a blue ring in the left image only")
    assert is_true(left, right, "there is a blue ring in only one image")
    assert is_true(left, right, "there are more red shapes in the left image than in the right image")
    assert not is_true(left, right, "there are more rings in the left image than in the right image")


def test_each_sentence_is_said_of_two_pairs_of_its_block_and_true_of_one(said: list[SceneStatement]) -> None:
    groups: dict[str, list[SceneStatement]] = defaultdict(list)
    for one in said:
        groups[one.group].append(one)
        assert one.left is not one.right
        assert one.left.index // BLOCK == one.right.index // BLOCK
    assert len(groups) == 600
    for pair in groups.values():
        assert sorted(one.label for one in pair) == [False, True]
        assert len({one.text for one in pair}) == 1
        assert len({(one.left.index, one.right.index) for one in pair}) == 2
    first_true = sum(pair[0].label for pair in groups.values())
    assert 240 < first_true < 360


def test_a_sentence_stands_once_in_its_block_and_each_scene_opens_one(said: list[SceneStatement]) -> None:
    true = [one for one in said if one.label]
    assert [one.left.index for one in true] == list(range(600))
    for start in range(0, 600, BLOCK):
        assert len({one.text for one in true[start : start + BLOCK]}) == BLOCK


def test_all_forms_of_statements_are_used(said: list[SceneStatement]) -> None:
    patterns = [re.compile(form.replace("{}", ".+")) for form in STATEMENT_FORMS]
    counts = [sum(bool(pattern.fullmatch(one.text)) for one in said) for pattern in patterns]
    assert sum(counts) == len(said)
    assert min(counts) > 0.08 * len(said)


def test_finding_the_named_object_is_not_enough(said: list[SceneStatement]) -> None:
    """Whoever calls true what names an object of either image is right little more often than by chance."""
    named = [(one, match["named"]) for one in said if (match := SHOWN.fullmatch(one.text))]
    right = [bool(answering(one.left, words) or answering(one.right, words)) == one.label for one, words in named]
    assert 0.5 <= sum(right) / len(right) < 0.6


def test_a_block_does_not_depend_on_the_others(world: list[Scene], said: list[SceneStatement]) -> None:
    assert list(statements(world[: 2 * BLOCK])) == said[: 4 * BLOCK]


@pytest.mark.parametrize(("count", "sentences"), [(0, 0), (1, 0), (2, 2), (3, 3), (5, 4), (6, 6)])
def test_few_scenes_have_statements_too(world: list[Scene], count: int, sentences: int) -> None:
    found = list(statements(world[:count]))
    assert len(found) == 2 * sentences
    assert sum(one.label for one in found) == sentences


def test_places_are_those_of_the_layout() -> None:
    assert [told(Thing(RING, RED, cell)) & set(PLACES) for cell in (0, 2, 8, 10)] == [{place} for place in PLACES]
