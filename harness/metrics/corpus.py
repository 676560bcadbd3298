"""Metrics of a whole corpus that are no mean of its samples: BLEU and METEOR, from sums of the samples' parts.

A sample's parts are what the corpus value is made of (matches, lengths); a corpus value is a function of their sums,
and the same function of one sample's parts is that sample's own value.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Aggregate = Callable[[Floats], Floats]

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
