"""p values against distributions that are counted by hand, and Holm's adjustment against a worked example."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from harness.kit.errors import HarnessError
from harness.metrics.corpus import bleu
from harness.metrics.significance import ASSIGNMENTS, holm, p_values


def table(values, clusters=None, metric="m", parts=None):
    names = [f"s{number}" for number in range(len(values))]
    made = pd.DataFrame({"task": "t", "metric": metric, "sample": names, "cluster": clusters or names, "value": values})
    return made if parts is None else made.assign(parts=list(parts))


def p_of(here, there, clusters=None):
    return p_values(table(here, clusters), table(there, clusters))["t"]["m"]


def test_three_of_three_images_better_have_a_quarter_of_all_swaps():
    """Only all swapped or none are as far from 0: 2 of 8."""
    assert p_of([1, 1, 1], [0, 0, 0]) == 0.25
    assert p_of([1, 1, 1, 1, 1, 1], [0] * 6) == 2 / 64


def test_differences_of_several_sizes_by_hand():
    """1 + 2 + 4 = 7; of the sums of ±1 ±2 ±4 those of at least 5 either way are 7, 5, -5, -7: for 5 found, 4 of 8."""
    assert p_of([1, 2, 4], [0, 0, 0]) == 2 / 8
    assert p_of([-1, 2, 4], [0, 0, 0]) == 4 / 8


def test_images_that_do_not_differ_change_nothing_and_alike_is_no_difference():
    assert p_of([1, 1, 1, 5], [0, 0, 0, 5]) == 0.25
    assert p_of([0.1, 0.2], [0.1, 0.2]) == 1


def test_samples_of_an_image_are_swapped_together():
    assert p_of([1, 1, 1, 1], [0] * 4, ["a", "a", "b", "b"]) == 0.5
    assert p_of([1, 1, 1, 1], [0] * 4, ["a"] * 4) == 2 / 16  # one image says nothing of others


def test_drawn_swaps_come_near_the_binomial():
    """14 of 18 images better: as far from 9 as 14 are 2 · P(X >= 14) of a fair coin."""
    here = [1] * 14 + [0] * 4
    exact = 2 * sum(sum(swap) >= 14 for swap in product((0, 1), repeat=18)) / 2**18
    found = p_of(here, [1 - value for value in here])
    assert found == pytest.approx(exact, abs=4 * (exact / ASSIGNMENTS) ** 0.5)
    assert found == p_of(here, [1 - value for value in here])


def test_the_least_p_is_that_of_the_one_found():
    assert p_of([1] * 40, [0] * 40) == 1 / (1 + ASSIGNMENTS)


def test_the_order_of_samples_and_the_other_side_do_not_matter():
    random = np.random.default_rng(0)
    here, there = table(list(random.random(30))), table(list(random.random(30)))
    found = p_values(here, there)
    assert p_values(here.sample(frac=1, random_state=1), there.sample(frac=1, random_state=2)) == found
    assert p_values(there, here) == found


def test_a_corpus_metric_is_of_the_parts_of_either_side():
    """BLEU-1 of three captions: all 2^3 swaps, each with the corpus's own formula."""
    here = np.array([[3.0, 4, 4, 4], [2, 4, 4, 4], [4, 4, 4, 4]])
    there = np.array([[1.0, 4, 4, 4], [2, 4, 4, 4], [1, 4, 4, 4]])
    differences = []
    for swap in product((False, True), repeat=3):
        swapped = np.array(swap)[:, None]
        first, second = np.where(swapped, there, here).sum(0), np.where(swapped, here, there).sum(0)
        differences.append(abs(float(bleu(first) - bleu(second))))
    expected = float(np.mean(np.array(differences) >= differences[0] - 1e-12))
    sides = (table([0.0] * 3, metric="bleu_1", parts=parts) for parts in (here, there))
    assert p_values(*sides)["t"]["bleu_1"] == expected == 0.5


def test_corpus_metrics_that_are_tested_together_each_have_their_own_p():
    """BLEU-2 differs in captions in which BLEU-1 does not; the swaps of those change nothing of BLEU-1."""
    ones = [np.array([[matches, 4.0, 4, 4] for matches in side]) for side in ((3, 4, 4), (1, 4, 1))]
    twos = [np.array([[matches, 2.0, 4, 3, 4, 4] for matches in side]) for side in ((3, 4, 4), (3, 2, 1))]
    alone = [
        p_values(*(table([0.0] * 3, metric=metric, parts=parts) for parts in sides))["t"][metric]
        for metric, sides in (("bleu_1", ones), ("bleu_2", twos))
    ]
    both = (
        pd.concat([table([0.0] * 3, metric="bleu_1", parts=one), table([0.0] * 3, metric="bleu_2", parts=two)])
        for one, two in zip(ones, twos, strict=True)
    )
    assert list(p_values(*both)["t"].values()) == alone


def test_other_samples_are_refused():
    with pytest.raises(HarnessError, match="samples differ"):
        p_values(table([1, 0]), table([1, 0, 1]))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # .005 · 4 = .02; .01 · 3 = .03; .03 · 2 = .06; .04 · 1, but not below .06
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([], []),
    ],
)
def test_holm_by_hand(given, expected):
    assert holm(given) == pytest.approx(expected)


def test_what_was_not_compared_is_no_part_of_the_family():
    adjusted = holm([0.01, float("nan"), 0.04])
    assert adjusted[0] == 0.02
    assert np.isnan(adjusted[1])
    assert adjusted[2] == 0.04
