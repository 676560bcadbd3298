"""Annotation files as their publishers ship them, and as ALBEF and BLIP re-packed them -> images with annotations.

Files are recognised by content, not by name (`recognise`); one file per task says how its kinds are read.
"""

from harness.data.formats.captions import load_captions
from harness.data.formats.classes import load_classes
from harness.data.formats.entailment import load_entailment
from harness.data.formats.files import Json, rows_with
from harness.data.formats.kinds import is_captions
from harness.data.formats.listing import IMAGE_SUFFIXES
from harness.data.formats.nlvr2 import load_nlvr2
from harness.data.formats.questions import load_questions, load_unanswered
from harness.data.formats.records import Caption, ClassifiedImage, Hypothesis, ImageTextSet, PairStatement, Question

__all__ = [
    "IMAGE_SUFFIXES",
    "Caption",
    "ClassifiedImage",
    "Hypothesis",
    "ImageTextSet",
    "Json",
    "PairStatement",
    "Question",
    "is_captions",
    "load_captions",
    "load_classes",
    "load_entailment",
    "load_nlvr2",
    "load_questions",
    "load_unanswered",
    "rows_with",
]
