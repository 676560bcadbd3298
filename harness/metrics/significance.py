"""Whether a paired difference could be chance: a randomisation test over images, and Holm's adjustment. Torch-free.

Shapes: C clusters (images), K summands of a statistic, M metrics, R assignments of signs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.kit.errors import HarnessError
from harness.metrics.corpus import AGGREGATES

Floats = NDArray[np.float64]
ASSIGNMENTS = 9_999
AT_ONCE = 1_000
# With so few clusters that differ, all assignments are gone through and p is exact.
MOST_EXACT = 13
LEAST_DRAWN = 1024
ROUNDING = 1e-12


def p_values(samples: pd.DataFrame, other: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, float]]:
    """task -> metric -> two-sided p of the difference between two records' samples (columns as in `stats.quality`).

    The paired randomisation test (Fisher; Noreen 1989): were both alike, each image's two outcomes might as well be
    swapped. p is the share of assignments whose difference is at least as large as the one found, of all where few
    images differ, else of ASSIGNMENTS drawn ones and the one found: at least 0.0001. Images are swapped whole, with all
    their captions or questions. Raises HarnessError where samples or metrics of the other record are missing.
    """
    keys = ["task", "metric", "sample"]
    joined = samples.merge(other, on=keys, how="left", suffixes=("", "_other"), validate="one_to_one")
    if joined["value_other"].isna().any() or len(samples) != len(other):
        raise HarnessError("samples differ; run both with the same --data and --limit")
    found: dict[str, dict[str, float]] = {}
    for task, rows in joined.groupby("task", sort=False):
        of_task = found.setdefault(str(task), {})
        means = rows[~rows["metric"].isin(list(AGGREGATES))]
        if len(means):
            of_task |= _of_means(means, seed)
        corpus = rows[rows["metric"].isin(list(AGGREGATES))]
        if len(corpus):
            of_task |= _of_corpus(corpus, seed)
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """p values of one family adjusted by Holm's step-down method (1979), in their order; NaN stays and does not count.

    The smallest is multiplied by the size of the family, the next by one less and so on, none below its predecessor.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if p == p)
    adjusted, largest = [float("nan")] * len(p_values), 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[place] = largest
    return adjusted


def _of_means(rows: pd.DataFrame, seed: int) -> dict[str, float]:
    """metric -> p of metrics that are means: the clusters' differences, each with either sign."""
    difference = rows["value"].astype(float) - rows["value_other"].astype(float)
    by_cluster = difference.groupby([_clusters(rows), rows["metric"]], sort=True).sum().unstack(fill_value=0)
    differences_CM = by_cluster.to_numpy(dtype=float)
    differences_CM = differences_CM[(np.abs(differences_CM) > ROUNDING).any(axis=1)]
    observed_M = np.abs(differences_CM.sum(0))
    least_M = observed_M - ROUNDING * max(1.0, float(np.abs(differences_CM).sum()))
    counts = [(np.abs(signs_RC @ differences_CM) >= least_M).sum(0) for signs_RC in _signs(len(differences_CM), seed)]
    return dict(zip(map(str, by_cluster.columns), _shares(np.sum(counts, axis=0), len(differences_CM))))


def _of_corpus(rows: pd.DataFrame, seed: int) -> dict[str, float]:
    """metric -> p of metrics of the whole corpus: each cluster's parts go to either side."""
    halves, middles, places, width = list[Floats](), list[Floats](), dict[str, slice](), 0
    for metric, corpus in rows.groupby("metric", sort=False):
        names = pd.factorize(_clusters(corpus), sort=True)[0]
        here_CK, there_CK = (_sums(np.stack(list(corpus[column])), names) for column in ("parts", "parts_other"))
        halves.append((here_CK - there_CK) / 2)
        middles.append((here_CK + there_CK).sum(0) / 2)
        places[str(metric)] = slice(width, width := width + here_CK.shape[1])
    half_CK, middle_K = np.concatenate(halves, axis=1), np.concatenate(middles)
    half_CK = half_CK[(half_CK != 0).any(axis=1)]

    def differences(shift: Floats) -> Floats:
        sides = (middle_K + shift, middle_K - shift)
        of_each = [[AGGREGATES[metric](side[..., place]) for side in sides] for metric, place in places.items()]
        return np.stack([np.abs(here - there) for here, there in of_each], axis=-1)

    least_M = differences(half_CK.sum(0)) - ROUNDING
    counts = [(differences(signs_RC @ half_CK) >= least_M).sum(0) for signs_RC in _signs(len(half_CK), seed)]
    return dict(zip(places, _shares(np.sum(counts, axis=0), len(half_CK))))


def _clusters(rows: pd.DataFrame) -> pd.Series:
    """The images; a single one says nothing of others, and its samples stand for themselves, as in intervals."""
    return rows["cluster"] if rows["cluster"].nunique() > 1 else rows["sample"]


def _sums(parts_nK: Floats, names: NDArray[np.int64]) -> Floats:
    return np.stack([np.bincount(names, weights=part_n) for part_n in parts_nK.T], axis=1)


def _shares(counts_M: NDArray[np.int64], clusters: int) -> list[float]:
    """Counts of assignments as p; drawn ones with the one that was found."""
    if clusters <= MOST_EXACT:
        return [float(count) / 2**clusters for count in counts_M]
    return [(1 + float(count)) / (1 + ASSIGNMENTS) for count in counts_M]


def _signs(clusters: int, seed: int) -> Iterator[Floats]:
    """Signs (R, C) by batches: all of them, or ASSIGNMENTS drawn ones."""
    if clusters <= MOST_EXACT:
        bits = np.arange(2**clusters)[:, None] >> np.arange(clusters)
        yield (1 - 2 * (bits & 1)).astype(np.float64)
        return
    for drawn in _drawn(max(LEAST_DRAWN, 1 << (clusters - 1).bit_length()), seed):
        yield drawn[:, :clusters].astype(np.float64)


@lru_cache(2)
def _drawn(clusters: int, seed: int) -> list[NDArray[np.int8]]:
    """Signs for so many clusters, of which fewer take the first ones: records differ in how many of theirs differ."""
    random = np.random.default_rng(seed)
    sizes = [min(AT_ONCE, ASSIGNMENTS - start) for start in range(0, ASSIGNMENTS, AT_ONCE)]
    return [1 - 2 * random.integers(0, 2, (size, clusters), dtype=np.int8) for size in sizes]
