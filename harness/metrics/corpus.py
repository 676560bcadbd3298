"""Metrics of a whole corpus that are no mean of its samples: BLEU and METEOR, from sums of the samples' parts.

A sample's parts are what the corpus value is made of (matches, lengths); a corpus value is a function of their sums,
and the same function of one sample's parts is that sample's own value. So intervals come from resampling images and
adding up the parts of those drawn. Shapes: n samples, C clusters (images), K parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from harness.kit.errors import HarnessError

Floats = NDArray[np.float64]
Aggregate = Callable[[Floats], Floats]
RESAMPLES = 2000
PERCENTILES = (2.5, 97.5)
DRAWS_PER_BATCH = 4_000_000  # bounds the memory of resampling

# BLEU's guards against division by zero, from pycocoevalcap's bleu_scorer.py: sums without a match give about 0.
TINY, SMALL = 1e-15, 1e-9
# METEOR 1.5's parameters and weights of exact, stem, synonym and paraphrase matches for English, task "rank".
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
STAGE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])


def bleu(parts: Floats) -> Floats:
    """BLEU (...) of order k from parts (..., 2k + 2): k matches, k guesses, caption length, reference length.

    Papineni et al. 2002 with the closest reference length; matches and guesses by length of n-gram.
    """
    order = parts.shape[-1] // 2 - 1
    matches, guesses = parts[..., :order], parts[..., order : 2 * order]
    precision = ((matches + TINY) / (guesses + SMALL)).prod(-1) ** (1 / order)
    ratio = (parts[..., -2] + TINY) / (parts[..., -1] + SMALL)
    return np.asarray(precision * np.exp(np.minimum(0.0, 1 - 1 / ratio)))


def meteor(parts: Floats) -> Floats:
    """METEOR 1.5 (...) from parts (..., 23), what its program counts in a segment.

    Words and function words of caption and reference (2 + 2); matched content and function words of both at each of
    four stages (4 x 4); chunks, 0 where caption and reference match whole; matched words of both. Denkowski and Lavie
    2014, section 2.
    """
    words, function = parts[..., 0:2], parts[..., 2:4]  # each: caption, reference
    stages = parts[..., 4:20].reshape(*parts.shape[:-1], 4, 4)  # stage, (content of both, function of both)
    weighted = (stages * STAGE_WEIGHTS[:, None]).sum(-2)
    matched = DELTA * weighted[..., 0:2] + (1 - DELTA) * weighted[..., 2:4]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = matched / (DELTA * (words - function) + (1 - DELTA) * function)
        mean = 1 / ((1 - ALPHA) / shares[..., 0] + ALPHA / shares[..., 1])
        penalty = GAMMA * (parts[..., 20] / parts[..., 21:23].mean(-1)) ** BETA
        score = mean * (1 - penalty)
    return np.asarray(np.where(np.isnan(score), 0.0, np.maximum(score, 0.0)))


AGGREGATES: dict[str, Aggregate] = {**{f"bleu_{order}": bleu for order in range(1, 5)}, "meteor": meteor}


def summarise_corpus(parts_nK: Floats, clusters: ArrayLike, aggregate: Aggregate, seed: int = 0) -> dict[str, Any]:
    """A corpus metric with its 95 % interval: {"value", "ci95": [low, high], "n"}.

    clusters (n,) names the image of each sample. Percentile bootstrap over images with 2,000 resamples, the same for
    the same seed and any order of samples. HarnessError for no samples and for parts that are not finite.
    """
    sums_CK = _cluster_sums(parts_nK, clusters)
    return {
        "value": float(aggregate(parts_nK.sum(0))),
        "ci95": _interval(sums_CK, aggregate, seed),
        "n": len(parts_nK),
    }


def paired_corpus(
    parts_nK: Floats, dense_nK: Floats, clusters: ArrayLike, aggregate: Aggregate, seed: int = 0
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
    sums_CM = _cluster_sums(both_nM, clusters)
    return {"delta": float(difference(both_nM.sum(0))), "ci95": _interval(sums_CM, difference, seed)}


def _cluster_sums(parts_nK: Floats, clusters: ArrayLike) -> Floats:
    """Sums (C, K) of the clusters' parts, in an order that depends on their contents alone."""
    if parts_nK.ndim != 2 or not len(parts_nK) or not np.isfinite(parts_nK).all():
        raise HarnessError(f"parts of shape {parts_nK.shape}: expected (n, K) finite numbers, at least one sample")
    names = pd.factorize(np.asarray(clusters))[0]
    if len(names) != len(parts_nK):
        raise HarnessError(f"{len(parts_nK)} samples and {len(names)} cluster names: expected one for each sample")
    if names.max() == 0:  # a single image says nothing of others: its samples are resampled
        names = np.arange(len(parts_nK))
    sums_CK = np.zeros((names.max() + 1, parts_nK.shape[1]))
    np.add.at(sums_CK, names, parts_nK)
    return sums_CK[np.lexsort(sums_CK.T)]


def _interval(sums_CK: Floats, aggregate: Aggregate, seed: int) -> list[float]:
    count = len(sums_CK)
    random = np.random.default_rng(seed)
    batch = max(1, DRAWS_PER_BATCH // count)
    drawn = []
    for start in range(0, RESAMPLES, batch):
        times_RC = random.multinomial(count, np.full(count, 1 / count), size=min(batch, RESAMPLES - start))
        drawn.append(aggregate(times_RC @ sums_CK))
    low, high = np.percentile(np.concatenate(drawn), PERCENTILES)
    return [float(low), float(high)]
