"""Intervals of a mean over several seeds: seeds are resampled, then the images that all of them share. Torch-free.

Seeds and images are crossed: every seed saw every image. A resample draws S of S seeds and C of C images, each with
replacement; the statistic is the mean over the drawn seeds of each one's value on the drawn images. S seeds drawn out
of S vary by (S - 1)/S of what seeds vary by, which is a half with two: deviations between seeds are widened by the root
of S/(S - 1). Shapes: S seeds, C clusters (images), K summands of a statistic, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.kit.errors import HarnessError
from harness.metrics.corpus import AGGREGATES
from harness.metrics.stats import RESAMPLES, VALUES_PER_BATCH, Floats, Statistic, mean, wilson

Found = dict[str, dict[str, dict[str, Any]]]


def over_seeds(seeds: Sequence[pd.DataFrame], dense: Sequence[pd.DataFrame] | None = None, seed: int = 0) -> Found:
    """The intervals of a setting's mean over seeds, and of its difference to dense, from each seed's samples.

    seeds: a record's samples each (columns as in `harness.metrics.stats.quality`), two at least. dense: those of the
    dense record beside each seed, which may be one for all. task -> metric -> {"ci95", and with dense "delta_ci95"}.
    Raises HarnessError where seeds, or dense, were not measured on the same samples.
    """
    if len(seeds) < 2:
        raise HarnessError(f"{len(seeds)} seed: expected two at least, to tell how seeds differ")
    # One dense record may stand beside all seeds.
    grouped = {id(one): dict(list(one.groupby(["task", "metric"], sort=False))) for one in (*seeds, *(dense or ()))}
    own = [grouped[id(one)] for one in seeds]
    other = None if dense is None else [grouped[id(one)] for one in dense]
    found: Found = {}
    for task, metric in own[0]:
        statistic = AGGREGATES.get(str(metric), mean)
        rows = _of_all(own, task, metric)
        names = rows[0].sort_values("sample")[["sample", "cluster"]].reset_index(drop=True)
        sums = _sums(rows, names, str(metric))
        entry: dict[str, Any] = {"ci95": _whole(seeds_interval(sums, statistic, seed), names)}
        if other is not None:
            beside = _sums(_of_all(other, task, metric), names, str(metric))
            sides = {(id(here), id(there)): (here, there) for here, there in zip(sums, beside, strict=True)}
            joined = {pair: np.concatenate(side, axis=1) for pair, side in sides.items()}
            both = [joined[id(here), id(there)] for here, there in zip(sums, beside, strict=True)]
            entry["delta_ci95"] = list(seeds_interval(both, _difference(statistic, sums[0].shape[1]), seed))
        found.setdefault(str(task), {})[str(metric)] = entry
    return found


def seeds_interval(sums_SCK: Sequence[Floats], statistic: Statistic, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over seeds of a statistic (..., K) -> (...) of clusters' sums (C, K).

    One array may stand for several seeds, and is then drawn from once.
    """
    given = list(sums_SCK)
    count, different = len(given), {id(sums_CK): sums_CK for sums_CK in given}
    column = {name: number for number, name in enumerate(different)}
    columns_S = [column[id(sums_CK)] for sums_CK in given]
    widened = (count / (count - 1)) ** 0.5
    random = np.random.default_rng(seed)
    values = []
    for times_RC in _times(len(given[0]), random):
        each_RS = np.stack([statistic(times_RC @ sums_CK) for sums_CK in different.values()], axis=1)[:, columns_S]
        drawn_RS = random.multinomial(count, np.full(count, 1 / count), size=len(times_RC)) / count
        centre_R = each_RS.mean(1)
        values.append(centre_R + widened * ((drawn_RS * each_RS).sum(1) - centre_R))
    low, high = np.percentile(np.concatenate(values), (2.5, 97.5))
    return float(low), float(high)


def _times(count: int, random: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """How often each of the clusters is drawn (R, C), by batches."""
    at_once = max(1, VALUES_PER_BATCH // count)
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        yield random.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)


def _difference(statistic: Statistic, width: int) -> Statistic:
    return lambda both: statistic(both[..., :width]) - statistic(both[..., width:])


def _of_all(seeds: Sequence[dict[Any, pd.DataFrame]], task: Any, metric: Any) -> list[pd.DataFrame]:
    if any((task, metric) not in one for one in seeds):
        raise HarnessError(f"metric {metric} of {task}: not every seed has samples of it; run them with --force")
    return [one[task, metric] for one in seeds]


def _sums(rows: Sequence[pd.DataFrame], names: pd.DataFrame, metric: str) -> list[Floats]:
    """Clusters' sums (C, K) of each of S seeds; HarnessError where its samples are not those of `names`."""
    clusters = pd.factorize(names["cluster"])[0]
    if clusters.max() == 0:  # a single image says nothing of others: its samples are resampled
        clusters = np.arange(len(names))
    found: dict[int, Floats] = {}
    for one in {id(one): one for one in rows}.values():
        ordered = one.sort_values("sample")
        if list(ordered["sample"]) != list(names["sample"]):
            raise HarnessError(f"{metric}: seeds were measured on other samples; run all with the same --data")
        values = ordered["value"].to_numpy(np.float64)
        counted = np.stack([np.ones_like(values), values], axis=1)
        parts = np.stack(list(ordered["parts"])) if metric in AGGREGATES else counted
        sums = [np.bincount(clusters, weights=part) for part in parts.T]
        found[id(one)] = np.stack(sums, axis=1)
    return [found[id(one)] for one in rows]


def _whole(bounds: tuple[float, float], names: pd.DataFrame) -> list[float]:
    """Bounds of an interval; of all right, or all wrong, of every seed, Wilson's, as of one seed."""
    low, high = bounds
    if low == high and low in (0.0, 1.0):
        return list(wilson(low, names["cluster"].nunique()))
    return [low, high]
