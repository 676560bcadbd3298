"""Captions against references by the COCO caption evaluation: BLEU, METEOR, ROUGE-L, CIDEr and SPICE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from harness.kit.errors import HarnessError
from harness.metrics.corpus import AGGREGATES, Floats
from harness.metrics.java import JARS, run_java, time_limit_s
from harness.metrics.ptb import tokenised
from harness.metrics.spice import spice_lacks, spice_scores

BLEU_ORDER = 4
METRICS = (*(f"bleu_{order}" for order in range(1, BLEU_ORDER + 1)), "meteor", "rouge_l", "cider", "spice")
METEOR_PARTS = 23


@dataclass(frozen=True)
class CaptionScores:
    """What n captions are worth.

    samples: metric -> (n,), each caption's own score. parts: metric -> (n, K), for the metrics of AGGREGATES, whose
    corpus value is made of the parts' sums; the others' is the mean of the samples. absent: metric -> why it is not
    there.
    """

    samples: dict[str, Floats]
    parts: dict[str, Floats]
    absent: dict[str, str]

    def corpus(self) -> dict[str, float]:
        """metric -> the value of the whole corpus, as pycocoevalcap gives it."""
        return {
            metric: float(AGGREGATES[metric](self.parts[metric].sum(0)) if metric in AGGREGATES else values.mean())
            for metric, values in self.samples.items()
        }


def caption_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Score each caption against the references (at least one) of the same place, in pycocoevalcap's way.

    CIDEr and ROUGE-L lie in 0..10 and 0..1; CIDEr weighs words by how many images' references have them, so it is
    0 for a single image and differs between subsets. SPICE is absent where its parser is not installed. HarnessError
    for no captions, for lists that do not fit together, and without Java.
    """
    if not captions or len(captions) != len(references) or not all(references):
        raise HarnessError(
            f"{len(captions)} captions and references for {sum(map(bool, references))} of {len(references)}: "
            "expected at least one reference for each caption"
        )
    words, reference_words = _tokenised(captions, references)
    parts = {**bleu_parts(words, reference_words), "meteor": meteor_parts(words, reference_words)}
    samples = {metric: AGGREGATES[metric](values) for metric, values in parts.items()}
    samples["rouge_l"] = rouge_scores(words, reference_words)
    samples["cider"] = cider_scores(words, reference_words)
    absent = {}
    if lacking := spice_lacks():
        absent["spice"] = lacking
    else:
        samples["spice"] = spice_scores(words, reference_words)
    return CaptionScores(samples, parts, absent)


def bleu_parts(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Floats]:
    """bleu_k -> (n, 2k + 2): matches and guesses of 1- to k-grams, caption length, length of the closest reference."""
    cooked = [
        cook_test(caption, cook_refs(others, n=BLEU_ORDER), eff="closest", n=BLEU_ORDER)
        for caption, others in zip(captions, references, strict=True)
    ]
    return {
        f"bleu_{order}": np.array(
            [[*one["correct"][:order], *one["guess"][:order], one["testlen"], one["reflen"]] for one in cooked],
            dtype=np.float64,
        )
        for order in range(1, BLEU_ORDER + 1)
    }


def meteor_parts(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """(n, 23): what METEOR 1.5 counts for each caption and its best reference, with the options of pycocoevalcap."""
    lines = [
        # Bars separate its fields; like pycocoevalcap, drop them from the texts.
        " ||| ".join(["SCORE", *(text.replace("|||", "").replace("  ", " ") for text in (*others, caption))]) + "\n"
        for caption, others in zip(captions, references, strict=True)
    ]
    arguments = ("-Xmx2G", "-jar", JARS / "meteor" / "meteor-1.5.jar", "-", "-", "-stdio", "-l", "en", "-norm")
    limit_s = time_limit_s(sum(map(len, references)))
    written = run_java("METEOR", arguments, "".join(lines), limit_s=limit_s).splitlines()
    try:
        parts = np.array([[float(number) for number in line.split()] for line in written], dtype=np.float64)
    except ValueError as error:
        raise HarnessError(f"METEOR: wrote no counts ({error})") from error
    if parts.shape != (len(captions), METEOR_PARTS):
        raise HarnessError(f"METEOR: counts of shape {parts.shape}, expected ({len(captions)}, {METEOR_PARTS})")
    # Like METEOR's own sums, those of ours have no chunk for a caption that matches its reference whole.
    words, stages = parts[:, 0:2], parts[:, 4:20].reshape(-1, 8, 2)
    parts[(stages.sum(1) == words).all(1) & (parts[:, 20] == 1), 20] = 0
    return parts


def rouge_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """ROUGE-L (n,) with beta 1.2, of the best precision and the best recall among the references."""
    rouge = Rouge()
    pairs = zip(captions, references, strict=True)
    return np.array([rouge.calc_score([caption], list(others)) for caption, others in pairs], dtype=np.float64)


def cider_scores(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Floats:
    """CIDEr (n,) with sigma 6; document frequencies are of these references. HarnessError where those have no words."""
    if not any(text for others in references for text in others):
        raise HarnessError("CIDEr: the references hold no words")
    places = range(len(captions))
    _, scores = Cider().compute_score(
        {place: list(references[place]) for place in places}, {place: [captions[place]] for place in places}
    )
    return np.asarray(scores, dtype=np.float64)


def _tokenised(captions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Captions and references as words, in one run of the tokeniser."""
    words = iter(tokenised([*captions, *(text for others in references for text in others)]))
    return [next(words) for _ in captions], [[next(words) for _ in others] for others in references]
