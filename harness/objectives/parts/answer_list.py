"""The closed list of answers that a training set has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from harness.kit.errors import HarnessError


def frequent_answers(given: Sequence[Sequence[str]], most: int) -> tuple[str, ...]:
    """The closed list of a training set: its `most` frequent answers, frequent ones first, then alphabetically.

    HarnessError where nothing was answered.
    """
    counts = Counter(answer for answers in given for answer in answers)
    if not counts:
        raise HarnessError("vqa: the training data hold no answers; name the folder with the annotations")
    return tuple(sorted(counts, key=lambda answer: (-counts[answer], answer))[:most])
