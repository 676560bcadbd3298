"""What a score is worth: the level that is reached without seeing, and which values are no better.

Of recalls that is the share of candidates that a list drawn at random would hold, re-ranked of those that were ranked
anew; of other metrics what dense scores on blank images, where that was measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from harness.report.settings import CONTEXT, DENSE

# Behind a value that is no better than chance.
AT_CHANCE = "°"
NOTE = (
    f"{AT_CHANCE} no better than chance: its interval reaches down to what candidates ranked at random, or blank "
    "images, give; where dense is there, methods are not compared"
)
RECALL = re.compile(r"(t2i|i2t)_r(\d+)(_rerank)?")
OTHER = {"t2i": "i2t", "i2t": "t2i"}


def recall_by_chance(metric: str, records: Sequence[Mapping[str, Any]]) -> float:
    """The recall of candidates ranked at random, by the first record that has it; NaN for what is no recall.

    Images that are asked for are the candidates of texts, and the other way round.
    """
    named = RECALL.fullmatch(metric)
    if named is None:
        return float("nan")
    for record in records:
        found = (record.get("quality") or {}).get(record["spec"]["task"], {})
        asked = found.get(f"{OTHER[named[1]]}_r{named[2]}{named[3] or ''}")
        candidates = (record["spec"].get("task_options") or {}).get("rerank_k") if named[3] else (asked or {}).get("n")
        if candidates:
            return min(1.0, int(named[2]) / candidates)
    return float("nan")


def mark_chance(values: pd.DataFrame, settings: pd.DataFrame) -> None:
    """Fill `chance` where a metric has none from dense's blank images on the same board, and `at_chance`, in place."""
    context = settings.set_index("setting")[[*CONTEXT, "method"]].astype(str)
    place = values[["setting", "task", "quantity"]].join(context, on="setting")
    keys = [*CONTEXT, "task", "quantity"]
    blind = place.assign(blind=values["blind"])[(place["method"] == DENSE) & values["blind"].notna()]
    levels = blind.groupby(keys, dropna=False)["blind"].mean().rename("level")
    found = place.join(levels, on=keys)["level"] if len(levels) else pd.Series(float("nan"), index=values.index)
    values["chance"] = values["chance"].fillna(found)
    values["at_chance"] = (values["low"] <= values["chance"]) & (values["kind"] == "quality")
