"""Means with 95 % confidence intervals, and paired differences to dense, by bootstrap over images.
Torch-free.

Several samples may share one image (its captions, its questions), so images, not samples, are resampled: the
statistic is the sum of the clusters' sums over the sum of their counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap

from harness.kit.errors import HarnessError
from harness.metrics.corpus import AGGREGATES, paired_corpus, summarise_corpus

RESAMPLES = 2000
CONFIDENCE = 0.95
Z = 1.959963984540054  # the normal quantile of 0.975
VALUES_PER_BATCH = 4_000_000  # bounds the memory of resampling to about 100 MiB
Samples = pd.Series | Mapping[str, Any] | ArrayLike


def summarise(values: ArrayLike, clusters: ArrayLike | None = None, seed: int = 0) -> dict[str, Any]:
    """Mean of values (n,) with its interval: {"value", "ci95": [low, high], "n"}.

    clusters (n,) names the image of each value. Percentile bootstrap with 2,000 resamples, the same for the
    same seed and any order of samples. Constant values give an interval of no width, except all 0 or all 1:
    nothing varies to be resampled and yet 50 of 50 right is no proof of 100 %, so these get Wilson's score
    interval (E. B. Wilson 1927), with the number of clusters as n. A single cluster says nothing of other
    clusters: then its samples are resampled. Raises HarnessError for no values, NaN, or clusters of another
    length.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise HarnessError(
            f"cannot summarise values of shape {array.shape}: expected (n,) finite numbers, at least one"
        )
    sums, counts = _cluster(array, clusters)
    value = math.fsum(array) / array.size
    low, high = _interval(sums, counts, value, seed)
    if low == high and low in (0.0, 1.0):
        low, high = _wilson(low, len(counts))
    return {"value": value, "ci95": [low, high], "n": int(array.size)}


def paired(values: Samples, dense_values: Samples, clusters: Samples | None = None, seed: int = 0) -> dict[str, Any]:
    """Mean difference to dense on the same samples, with its interval: {"delta", "ci95": [low, high]}.

    All three are indexed by sample id, in any order (plain sequences: by their place). Samples that all
    differ by the same amount give an interval of no width. Raises HarnessError unless the ids are unique and
    the same everywhere.
    """
    here, dense = _series(values).astype(np.float64), _series(dense_values).astype(np.float64)
    _same_ids(here, dense, "dense's")
    difference = here.to_numpy() - dense.loc[here.index].to_numpy()
    names = None
    if clusters is not None:
        named = _series(clusters)
        _same_ids(here, named, "the clusters'")
        names = named.loc[here.index].to_numpy()
    sums, counts = _cluster(difference, names)
    delta = math.fsum(difference) / difference.size
    return {"delta": delta, "ci95": list(_interval(sums, counts, delta, seed))}


def quality(
    samples: pd.DataFrame, dense: pd.DataFrame | None = None, seed: int = 0
) -> dict[str, dict[str, dict[str, Any]]]:
    """A record's `quality` from its samples (columns task, metric, sample, cluster, value) and dense's.

    task -> metric -> {value, ci95, n, delta_to_dense, delta_ci95}; deltas are None without `dense`. A metric of
    AGGREGATES is computed from the column `parts`, any other is a mean. Raises HarnessError where a metric has no
    counterpart in dense or the samples differ.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    reference: dict[Any, pd.DataFrame] = {} if dense is None else dict(list(dense.groupby(["task", "metric"])))
    for (task, metric), rows in samples.groupby(["task", "metric"], sort=False):
        aggregate, clusters = AGGREGATES.get(str(metric)), rows["cluster"].to_numpy()
        if aggregate is None:
            entry = summarise(rows["value"].to_numpy(), clusters, seed)
        else:
            entry = summarise_corpus(np.stack(list(rows["parts"])), clusters, aggregate, seed)
        entry |= {"delta_to_dense": None, "delta_ci95": None}
        if dense is not None:
            if (task, metric) not in reference:
                raise HarnessError(f"metric {metric} of {task}: dense has no samples of it; run dense with --force")
            by_id, dense_by_id = rows.set_index("sample"), reference[task, metric].set_index("sample")
            if aggregate is None:
                pair = paired(by_id["value"], dense_by_id["value"], by_id["cluster"], seed)
            else:
                _same_ids(by_id["value"], dense_by_id["value"], "dense's")
                here, there = (np.stack(list(side["parts"])) for side in (by_id, dense_by_id.loc[by_id.index]))
                pair = paired_corpus(here, there, clusters, aggregate, seed)
            entry |= {"delta_to_dense": pair["delta"], "delta_ci95": pair["ci95"]}
        found.setdefault(str(task), {})[str(metric)] = entry
    return found


def _series(samples: Samples) -> pd.Series:
    return (
        samples
        if isinstance(samples, pd.Series)
        else pd.Series(dict(samples) if isinstance(samples, Mapping) else np.asarray(samples))
    )


def _same_ids(here: pd.Series, other: pd.Series, whose: str) -> None:
    for index in (here.index, other.index):
        if not index.is_unique:
            raise HarnessError(f"sample {index[index.duplicated()][0]!r} appears twice: expected one value per sample")
    only_here, only_there = here.index.difference(other.index), other.index.difference(here.index)
    if len(only_here) or len(only_there):
        first = [*only_here, *only_there][0]
        raise HarnessError(
            f"samples differ from {whose}: {len(only_here)} only here, {len(only_there)} only there "
            f"(first {first!r}); run both with the same --data and --limit"
        )


def _cluster(
    values: NDArray[np.float64], clusters: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums and counts of the clusters (C,), in an order that depends on their contents alone."""
    names: NDArray[np.int64] = np.arange(values.size)
    if clusters is not None:
        names = pd.factorize(np.asarray(clusters))[0].astype(np.int64)
    if names.shape != values.shape:
        raise HarnessError(f"{values.size} values and {names.size} cluster names: expected one for each value")
    if names.max() == 0:
        names = np.arange(values.size)
    order = np.lexsort((values, names))
    sums = np.bincount(names[order], weights=values[order])
    counts = np.bincount(names).astype(np.float64)
    order = np.lexsort((counts, sums))
    return np.asarray(sums[order], dtype=np.float64), counts[order]


def _interval(sums: NDArray[np.float64], counts: NDArray[np.float64], value: float, seed: int) -> tuple[float, float]:
    if np.ptp(sums - value * counts) <= 1e-12 * max(1.0, np.abs(sums).max()):
        return value, value

    def mean(sums: NDArray[np.float64], counts: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return sums.sum(axis=axis) / counts.sum(axis=axis)

    interval = bootstrap(
        (sums, counts),
        mean,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, VALUES_PER_BATCH // len(sums)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share of 0 or 1 among `count`."""
    width = Z**2 / (count + Z**2)
    return (0.0, width) if share == 0 else (1.0 - width, 1.0)
