"""How tables and figures call the metrics: which of them are shown, in what order, and in what unit."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

# Parts of a metric that is shown itself.
DETAIL = re.compile(
    r"mean_recall(_rerank)?|vqa_(yes_no|number|other)|entailment_(?!accuracy).+|nlvr2_consistency|bleu_[123]|top5"
    r"|(probe_)?mean_per_class|probe_top5"
)
RANK = re.compile(r"^(?P<way>t2i|i2t)_r(?P<rank>\d+)(?P<rerank>_rerank)?$")
# No fractions: papers print them times 100, as the fractions beside them.
SCORES = ("cider",)
NAMES = {
    "vqa": "VQA",
    "nlvr2": "NLVR2",
    "recall rerank": "recall, re-ranked",
    "bleu 4": "BLEU-4",
    "meteor": "METEOR",
    "rouge l": "ROUGE-L",
    "cider": "CIDEr",
    "spice": "SPICE",
}
# Metrics of images that a host saw without a text, where it can see them so.
WITHOUT_TEXT = re.compile(
    r"(t2i|i2t)_r\d+|mean_recall|(probe_)?(top\d|mean_per_class)|bleu_\d|meteor|rouge_l|cider|spice"
)

EMPTY = frozenset({"not run", "no value"})


def metrics_of(frame: pd.DataFrame) -> list[str]:
    """The metrics a frame has, in their order of reading."""
    return [name.removesuffix("__error") for name in frame.columns if name.endswith("__error")]


def headline_metrics(frame: pd.DataFrame) -> list[str]:
    """The metrics shown unless others are asked for: of the recalls R@1 only, and no parts of metrics shown.

    Metrics that none of the frame's rows was measured on (those of another model's tasks, say) are left out.
    """
    whole = [name for name in metrics_of(frame) if not DETAIL.fullmatch(name)]
    whole = [name for name in whole if not EMPTY.issuperset(frame[f"{name}__error"])]
    return [name for name in whole if not (match := RANK.match(name)) or match["rank"] == "1"]


def title_of(metric: str) -> str:
    """How tables and figures call a metric: 't2i R@1, re-ranked' for t2i_r1_rerank."""
    if match := RANK.match(metric):
        return f"{match['way']} R@{match['rank']}" + (", re-ranked" if match["rerank"] else "")
    words = metric.replace("_", " ")
    for word, name in NAMES.items():
        words = words.replace(word, name)
    return words


def unit_of(metric: str) -> str:
    """'%' of a fraction; 'x 100' of a score that is none, such as CIDEr, which may exceed 1."""
    return "× 100" if metric in SCORES else "%"


def reading_order(metric: str) -> tuple[Any, ...]:
    """Sorts recalls by re-ranking, direction and rank, before other metrics by name."""
    match = RANK.match(metric)
    if match is None:
        return (metric, False, False, 0)
    return ("", bool(match["rerank"]), match["way"] == "i2t", int(match["rank"]))
