"""Families of comparisons: the methods at one budget, whose p values are adjusted together, and the marks they give."""

from __future__ import annotations

from typing import Any

import pandas as pd

from harness.metrics.significance import holm
from harness.report.settings import CONTEXT, DENSE

LEVEL = 0.05
# Behind a value whose difference to dense, to `random`, is no chance at LEVEL.
NOT_DENSE, ABOVE, BELOW = "*", "↑", "↓"
COMPARED = ("p_dense", "p_random")
NOTE_DENSE = (
    f"{NOT_DENSE} differs from dense, p < {LEVEL:g}: paired randomisation test over images, adjusted by Holm over the "
    "methods at one ratio"
)
NOTE_RANDOM = f"{ABOVE} above, {BELOW} below random at the same ratio, by the same test"


def adjust(values: pd.DataFrame, settings: pd.DataFrame) -> None:
    """Fill the columns of adjusted p values in place: Holm's, over the settings of one board at one ratio, for each
    task and metric. Values for which a method kept all tokens are not compared, and none where dense is at chance.
    """
    budget = settings.set_index("setting")[[*CONTEXT, "ratio", "match"]].astype(str)
    named = values[["setting", "task", "quantity"]].join(budget, on="setting")
    compared = (values["kind"] == "quality") & ~values["unguided"].astype(bool)
    board = [*CONTEXT, "task", "quantity"]
    dense = values["at_chance"] & values["setting"].isin(settings.loc[settings["method"] == DENSE, "setting"])
    compared &= ~named.assign(dense=dense).groupby(board, dropna=False)["dense"].transform("any")
    for name in COMPARED:
        rows = named[compared & values[name].notna()]
        keys = [*CONTEXT, "ratio", "match", "task", "quantity"]
        for index in rows.groupby(keys, sort=False, dropna=False).groups.values():
            values.loc[index, f"{name}_holm"] = holm(list(values.loc[index, name]))


def marks(row: Any, better: str | None) -> str:
    """'*↑' of a metric's row: it differs from dense and is better than `random`; '' where nothing is known."""
    differs = NOT_DENSE if row.p_dense_holm < LEVEL else ""
    if not row.p_random_holm < LEVEL or row.delta_random == 0:
        return differs
    return differs + (ABOVE if (row.delta_random > 0) == (better != "lower") else BELOW)


def notes_of(values: pd.DataFrame) -> list[str]:
    """What the marks of a frame's values mean, where there are any to mark."""
    said = zip(COMPARED, (NOTE_DENSE, NOTE_RANDOM), strict=True)
    return [line for name, line in said if values[f"{name}_holm"].notna().any()]
