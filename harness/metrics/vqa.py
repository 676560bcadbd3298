"""VQA v2's accuracy: an answer against those of several annotators."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

ANSWER_TYPES = ("yes/no", "number", "other")

# The rules and tables below are those of the official evaluation program, PythonEvaluationTools/vqaEvaluation/
# vqaEval.py of https://github.com/GT-Vision-Lab/VQA, with its quirks.
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
PERIOD = re.compile(r"\.(?!\d)")
PERIODS_AT_MOST = 32  # there a flag stands where the number of replacements belongs: re.UNICODE is 32
DIGIT_COMMA = re.compile(r"\d,\d")
ARTICLES = frozenset({"a", "an", "the"})
NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBER_WORDS.split())}
# Contractions by how they are said; the keys of CONTRACTIONS are these with one or all apostrophes left out. A word is
# lower-cased before it is looked up, so the program's own entries for "Im", "Ive" and "Id've" never apply.
ALL_LEFT_OUT = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't
it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't
somebody'll somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd
they'll they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd
who'll who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
ONE_LEFT_OUT = """
couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've
there'd've they'd've we'd've who'd've wouldn't've y'all'd've you'd've
"""
EXCEPTIONS = {
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    "somebody'd": "somebodyd",
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
}


def _without_one(word: str) -> list[str]:
    """The word without each of its apostrophes in turn."""
    return [word[:place] + word[place + 1 :] for place, sign in enumerate(word) if sign == "'"]


CONTRACTIONS = (
    {word.replace("'", ""): word for word in ALL_LEFT_OUT.split()}
    | {short: word for word in ONE_LEFT_OUT.split() for short in _without_one(word)}
    | EXCEPTIONS
)


def vqa_accuracy(answer: str, truths: Sequence[str]) -> float:
    """VQA v2's accuracy (0..1) of an answer, as its official program computes it.

    Line breaks and tabs become spaces, and spaces around a text go. Only where the truths, as written, are not all the
    same are they and the answer normalised (`normalised`). The accuracy is then the mean, over the truths, of
    min(matches among the others / 3, 1). With fewer than two truths there are no others: plain agreement.

    Another form of the program is in use that normalises every answer, and of truths that differ the punctuation only:
    there "two" is wrong where all annotators wrote "two".
    """
    given, stated = _stripped(answer), [_stripped(truth) for truth in truths]
    if len(set(stated)) > 1:
        given, stated = normalised(given), [normalised(truth) for truth in stated]
    matches = [truth == given for truth in stated]
    if len(matches) < 2:
        return float(any(matches))
    total = sum(matches)
    return sum(min((total - match) / 3, 1.0) for match in matches) / len(matches)


def normalised(text: str) -> str:
    """A text without punctuation and articles, in lower case, number words as digits, contractions with apostrophes.

    A punctuation mark goes where it touches a space somewhere in the text or where the text has a comma between digits,
    and becomes a space elsewhere; a period goes unless a digit follows; apostrophes and colons stay.
    """
    joined = DIGIT_COMMA.search(text) is not None
    bare = text
    for mark in PUNCTUATION:
        bare = bare.replace(mark, "" if joined or f"{mark} " in text or f" {mark}" in text else " ")
    words = [NUMBERS.get(word, word) for word in PERIOD.sub("", bare, count=PERIODS_AT_MOST).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def answer_type(truths: Sequence[str]) -> str:
    """One of ANSWER_TYPES for a question whose annotation names none: the kind of its most common truth.

    VQA v2's annotations name it (`answer_type`); this reads "yes" and "no", and as numbers what begins with a digit
    after number words became digits.
    """
    common = normalised(Counter(_stripped(truth) for truth in truths).most_common(1)[0][0])
    if common in ("yes", "no"):
        return "yes/no"
    return "number" if common[:1].isdigit() else "other"


def _stripped(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()
