"""Shares of right decisions: of groups all of whose members are right, and of classes, each counting alike.

Shapes: n samples, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def consistency(right: ArrayLike, groups: Sequence[str]) -> tuple[list[str], Floats]:
    """Groups in the order they come in, and 1 for each all of whose samples are right (n,), else 0.

    NLVR2's second metric (Suhr et al. 2019, arXiv 1811.00491), with a group for each sentence.
    """
    whole: dict[str, bool] = {}
    for good, group in zip(np.asarray(right, dtype=bool).tolist(), groups, strict=True):
        whole[group] = whole.get(group, True) and good
    return list(whole), np.array(list(whole.values()), dtype=np.float64)


def mean_per_class(right: ArrayLike, labels: ArrayLike) -> Floats:
    """Outcomes (n,) whose mean is the mean of the classes' accuracies, over the classes that have samples.

    right, labels: (n,); right may be a number of right decisions. With n_c samples in class c, an outcome is the metric
    plus n / (C n_c) times (right - accuracy of its own class): what the sample adds to the metric, to first order. So
    it may lie outside 0..1, and resampling plain means of outcomes gives the metric's interval. Outcomes of right times
    n / (C n_c) have the same mean, but where classes differ in size they vary, and so give an interval, even when all
    are right.
    """
    hits, names = np.asarray(right, dtype=np.float64), np.asarray(labels)
    _, classes, counts = np.unique(names, return_inverse=True, return_counts=True)
    accuracy_C = np.bincount(classes, weights=hits) / counts
    weights = len(hits) / (len(counts) * counts[classes])
    return np.asarray(accuracy_C.mean() + weights * (hits - accuracy_C[classes]), dtype=np.float64)
