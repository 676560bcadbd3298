"""Values with 95 % confidence intervals, and paired differences to dense, by one bootstrap over images. Torch-free.

Every statistic is a function of sums over samples: a mean of (count, value), BLEU and METEOR of the parts they are made
of. Several samples may share one image (its captions, its questions), so images, not samples, are resampled: clusters'
sums are drawn and added up. Shapes: n samples, C clusters (images), K summands of a statistic, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from harness.kit.errors import HarnessError
from harness.metrics.corpus import AGGREGATES

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
RESAMPLES = 2000
TAILS = ((1 - 0.95) / 2, 1 - (1 - 0.95) / 2)
Z = 1.959963984540054  # the normal quantile of 0.975
VALUES_PER_BATCH = 4_000_000  # bounds the memory of resampling to about 100 MiB
# Draws of more clusters than these are not kept for the next metric: 2,000 x 4,000 indices are 64 MB.
CLUSTERS_KEPT = 4000
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
    low, high, value, count = _mean_interval(array, clusters, seed)
    if low == high and low in (0.0, 1.0):
        low, high = wilson(low, count)
    return {"value": value, "ci95": [low, high], "n": int(array.size)}


def summarise_corpus(parts_nK: Floats, clusters: ArrayLike, aggregate: Statistic, seed: int = 0) -> dict[str, Any]:
    """A corpus metric with its interval, from its samples' parts: {"value", "ci95": [low, high], "n"}.

    clusters (n,) names the image of each sample. HarnessError for no samples and for parts that are not finite.
    """
    interval = bootstrap(_cluster_sums(parts_nK, clusters), aggregate, seed)
    return {"value": float(aggregate(parts_nK.sum(0))), "ci95": list(interval), "n": len(parts_nK)}


def paired(values: Samples, dense_values: Samples, clusters: Samples | None = None, seed: int = 0) -> dict[str, Any]:
    """Mean difference to dense on the same samples, with its interval: {"delta", "ci95": [low, high]}.

    All three are indexed by sample id, in any order (plain sequences: by their place). Samples that all
    differ by the same amount give an interval of no width. Raises HarnessError unless the ids are unique and
    the same everywhere.
    """
    here, dense = _series(values).astype(np.float64), _series(dense_values).astype(np.float64)
    _same_ids(here, dense, "dense's")
    names = None
    if clusters is not None:
        named = _series(clusters)
        _same_ids(here, named, "the clusters'")
        names = _matched(named, here.index).to_numpy()
    difference = here.to_numpy() - _matched(dense, here.index).to_numpy()
    low, high, delta, _ = _mean_interval(difference, names, seed)
    return {"delta": delta, "ci95": [low, high]}


def paired_corpus(
    parts_nK: Floats, dense_nK: Floats, clusters: ArrayLike, aggregate: Statistic, seed: int = 0
) -> dict[str, Any]:
    """A corpus metric's difference to dense on the same samples, in the same order: {"delta", "ci95": [low, high]}.

    Each resample draws the same images for both. HarnessError for other shapes than dense's.
    """
    if parts_nK.shape != dense_nK.shape:
        raise HarnessError(f"parts of shape {parts_nK.shape}, dense's {dense_nK.shape}: expected the same samples")
    width = parts_nK.shape[1]

    def difference(both: Floats) -> Floats:
        return aggregate(both[..., :width]) - aggregate(both[..., width:])

    both_nM = np.concatenate([parts_nK, dense_nK], axis=1)
    interval = bootstrap(_cluster_sums(both_nM, clusters), difference, seed)
    return {"delta": float(difference(both_nM.sum(0))), "ci95": list(interval)}


def quality(samples: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, dict[str, Any]]]:
    """A record's `quality` from its samples (columns task, metric, sample, cluster, value, and parts if any).

    task -> metric -> {value, ci95, n}. A metric of AGGREGATES is computed from the parts, any other is a mean.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for (task, metric), rows in samples.groupby(["task", "metric"], sort=False):
        aggregate, clusters = AGGREGATES.get(str(metric)), rows["cluster"].to_numpy()
        if aggregate is None:
            entry = summarise(rows["value"].to_numpy(), clusters, seed)
        else:
            entry = summarise_corpus(np.stack(list(rows["parts"])), clusters, aggregate, seed)
        found.setdefault(str(task), {})[str(metric)] = entry
    return found


def deltas(samples: pd.DataFrame, dense: pd.DataFrame, seed: int = 0) -> dict[str, dict[str, dict[str, Any]]]:
    """Differences to dense on the same samples: task -> metric -> {delta_to_dense, delta_ci95}.

    Raises HarnessError where a metric has no counterpart in dense or the samples differ.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    reference = dict(list(dense.groupby(["task", "metric"])))
    for (task, metric), rows in samples.groupby(["task", "metric"], sort=False):
        if (task, metric) not in reference:
            raise HarnessError(f"metric {metric} of {task}: dense has no samples of it; run dense with --force")
        aggregate = AGGREGATES.get(str(metric))
        here, there = rows.set_index("sample"), reference[task, metric].set_index("sample")
        if aggregate is None:
            pair = paired(here["value"], there["value"], here["cluster"], seed)
        else:
            _same_ids(here["value"], there["value"], "dense's")
            parts, other = (np.stack(list(side["parts"])) for side in (here, there.loc[here.index]))
            pair = paired_corpus(parts, other, rows["cluster"].to_numpy(), aggregate, seed)
        entry = {"delta_to_dense": pair["delta"], "delta_ci95": pair["ci95"]}
        found.setdefault(str(task), {})[str(metric)] = entry
    return found


def mean(sums: Floats) -> Floats:
    """Means (...) from counts and sums (..., 2)."""
    return np.asarray(sums[..., 1] / sums[..., 0])


def bootstrap(sums_CK: Floats, statistic: Statistic, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of a statistic of the clusters' sums over RESAMPLES draws of as many clusters.

    Few summands are gathered by the clusters drawn, many added up as a product with how often each was drawn.
    """
    few = sums_CK.shape[1] <= 2
    values_R = np.concatenate([statistic(part) for part in (_gathered if few else _multiplied)(sums_CK, seed)])
    low, high = _quantiles(values_R) if few else np.percentile(values_R, (2.5, 97.5))
    return float(low), float(high)


def _quantiles(values_R: Floats) -> list[float]:
    """Of TAILS, interpolated as scipy writes it: its last bit differs from numpy's, and stored means have it."""
    sorted_R, found = np.sort(values_R), []
    for share in TAILS:
        place = share * len(sorted_R) + (1 - share) - 1
        below, part = int(place), place % 1
        found.append((1 - part) * sorted_R[below] + part * sorted_R[below + 1])
    return found


def _gathered(sums_CK: Floats, seed: int) -> Iterator[Floats]:
    """Totals (R, K) of the clusters drawn, by batches."""
    count = len(sums_CK)
    for drawn_RC in _kept_draws(count, seed) if count <= CLUSTERS_KEPT else _draws(count, seed):
        columns = []
        for column_C in sums_CK.T:
            alike = np.ptp(column_C) == 0 and column_C[0].is_integer()
            total = count * column_C[0] if alike else column_C[drawn_RC].sum(-1)
            columns.append(np.broadcast_to(total, len(drawn_RC)))
        yield np.stack(columns, axis=-1)


def _draws(count: int, seed: int) -> Iterator[NDArray[np.int64]]:
    random = np.random.default_rng(seed)
    for size in _batches(count):
        yield random.integers(0, count, (size, count))


@lru_cache(2)
def _kept_draws(count: int, seed: int) -> tuple[NDArray[np.int64], ...]:
    """The draws of a number of clusters, which all metrics of a set share."""
    return tuple(_draws(count, seed))


def _multiplied(sums_CK: Floats, seed: int) -> Iterator[Floats]:
    """Totals (R, K) of the clusters drawn, by batches."""
    count = len(sums_CK)
    for times_RC in _kept_times(count, seed) if count <= CLUSTERS_KEPT else _times(count, seed):
        yield times_RC @ sums_CK


def _times(count: int, seed: int) -> Iterator[Floats]:
    """How often each cluster is drawn (R, C), by batches."""
    random = np.random.default_rng(seed)
    for size in _batches(count):
        yield random.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)


@lru_cache(2)
def _kept_times(count: int, seed: int) -> tuple[Floats, ...]:
    """The same, which all metrics of a corpus share."""
    return tuple(_times(count, seed))


def _batches(count: int) -> Iterator[int]:
    batch = max(1, VALUES_PER_BATCH // count)
    for start in range(0, RESAMPLES, batch):
        yield min(batch, RESAMPLES - start)


def _mean_interval(array: Floats, clusters: ArrayLike | None, seed: int) -> tuple[float, float, float, int]:
    """Low and high end of the interval of a mean, the mean, and the number of clusters."""
    names = np.arange(array.size) if clusters is None else np.asarray(clusters)
    sums_C2 = _cluster_sums(np.stack([np.ones_like(array), array], axis=1), names)
    value = math.fsum(array) / array.size
    counts, sums = sums_C2.T
    if np.ptp(sums - value * counts) <= 1e-12 * max(1.0, np.abs(sums).max()):
        return value, value, value, len(sums_C2)
    return *bootstrap(sums_C2, mean, seed), value, len(sums_C2)


def _cluster_sums(parts_nK: Floats, clusters: ArrayLike) -> Floats:
    """Sums (C, K) of the clusters' parts, whose order and rounding depend on their contents alone.

    Raises HarnessError for no samples, for parts that are not finite, and for clusters of another length.
    """
    if parts_nK.ndim != 2 or not len(parts_nK) or not np.isfinite(parts_nK).all():
        raise HarnessError(f"parts of shape {parts_nK.shape}: expected (n, K) finite numbers, at least one sample")
    names = pd.factorize(np.asarray(clusters))[0]
    if len(names) != len(parts_nK):
        raise HarnessError(f"{len(parts_nK)} values and {len(names)} cluster names: expected one for each value")
    if names.max() == 0:  # a single image says nothing of others: its samples are resampled
        names = np.arange(len(parts_nK))
    order = np.lexsort((*parts_nK.T, names))
    sums_CK = np.stack([np.bincount(names[order], weights=part_n) for part_n in parts_nK[order].T], axis=1)
    return np.asarray(sums_CK[np.lexsort(sums_CK.T)], dtype=np.float64)


def _series(samples: Samples) -> pd.Series:
    return (
        samples
        if isinstance(samples, pd.Series)
        else pd.Series(dict(samples) if isinstance(samples, Mapping) else np.asarray(samples))
    )


def _matched(series: pd.Series, index: pd.Index) -> pd.Series:
    return series if series.index.equals(index) else series.loc[index]


def _same_ids(here: pd.Series, other: pd.Series, whose: str) -> None:
    if here.index.equals(other.index) and here.index.is_unique:
        return
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


def wilson(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share of 0 or 1 among `count`."""
    width = Z**2 / (count + Z**2)
    return (0.0, width) if share == 0 else (1.0 - width, 1.0)
