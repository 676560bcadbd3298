"""Facts about consistency and about the mean of the classes' accuracies, checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from harness.metrics.accuracy import consistency, mean_per_class
from harness.metrics.stats import paired, summarise


def test_a_group_counts_when_all_of_it_is_right() -> None:
    names, whole = consistency([1, 1, 0, 1, 1], ["b", "a", "b", "a", "c"])
    assert names == ["b", "a", "c"]
    assert whole.tolist() == [0, 1, 1]


def test_each_class_counts_alike() -> None:
    """Class 0 has 1 of 4 right, class 7 has 1 of 1: (1/4 + 1) / 2, where plain accuracy is 2/5."""
    outcomes = mean_per_class([1, 0, 0, 0, 1], [0, 0, 0, 0, 7])
    assert outcomes.mean() == pytest.approx(0.625)
    # 5 / (2 * 4) of each surplus over 1/4, about 0.625; nothing is surplus in class 7.
    assert outcomes == pytest.approx([0.625 + 0.46875, *[0.625 - 0.15625] * 3, 0.625])


def test_classes_of_one_size_make_it_plain_accuracy() -> None:
    right = np.array([1, 0, 1, 1, 0, 1.0])
    assert mean_per_class(right, [2, 1, 0, 2, 1, 0]).mean() == pytest.approx(right.mean())


@pytest.mark.parametrize("value", [0, 1])
def test_where_all_are_alike_the_interval_is_that_of_a_share(value: int) -> None:
    """Classes of different sizes with all right are 1 for every sample, so that the interval does not leave 0..1."""
    labels = [0, 0, 0, 0, 0, 0, 0, 1]
    outcomes = mean_per_class([value] * 8, labels)
    assert outcomes.tolist() == [value] * 8
    assert summarise(outcomes) == summarise([float(value)] * 8)


def test_the_interval_is_that_of_resampling_the_metric_itself() -> None:
    """Against a bootstrap that computes the classes' accuracies anew in every resample."""
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [300, 60, 30])
    right = random.random(390) < np.array([0.9, 0.5, 0.3])[labels]
    resampled = []
    for _ in range(2000):
        rows = random.integers(0, 390, 390)
        resampled.append(np.mean([right[rows][labels[rows] == name].mean() for name in range(3)]))
    found = summarise(mean_per_class(right, labels))
    assert found["value"] == pytest.approx(np.mean([right[labels == name].mean() for name in range(3)]))
    assert found["ci95"] == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=0.01)


def test_a_difference_to_dense_is_the_difference_of_the_metrics() -> None:
    labels = [0, 0, 0, 1]
    here, dense = mean_per_class([1, 0, 0, 1], labels), mean_per_class([1, 1, 0, 0], labels)
    assert paired(here, dense)["delta"] == pytest.approx((1 / 3 + 1) / 2 - (2 / 3 + 0) / 2)
