"""Data sets as their publishers ship them, and as ALBEF and BLIP re-packed them: a format is one file of this folder.

Files are recognised by content, not by name. What formats are made of is in `harness.data.annotations`.
"""

from functools import partial

from harness.data.annotations.format import Source
from harness.data.annotations.questions import load_unanswered
from harness.data.annotations.records import Caption, ClassifiedImage, Hypothesis, ImageTextSet, PairStatement, Question
from harness.data.annotations.source import OpenedSource, load, opened, read_once

load_captions = partial(load, "captions")
load_questions = partial(load, "questions")
load_entailment = partial(load, "hypotheses")
load_nlvr2 = partial(load, "statements")
load_classes = partial(load, "classified")

__all__ = [
    "Caption",
    "ClassifiedImage",
    "Hypothesis",
    "ImageTextSet",
    "OpenedSource",
    "PairStatement",
    "Question",
    "Source",
    "load",
    "load_captions",
    "load_classes",
    "load_entailment",
    "load_nlvr2",
    "load_questions",
    "load_unanswered",
    "opened",
    "read_once",
]
