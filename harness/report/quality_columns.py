"""The columns of a quality table: a value with its interval, its spread over seeds and its difference to dense."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from harness.report.chance import AT_CHANCE
from harness.report.families import marks
from harness.report.frame import Frame
from harness.report.layout import Column, shortest

# Behind a value for which a method kept all tokens, as it had no text to go by.
KEPT_ALL = "†"
# Ends of an interval that differ by no more than this share, or by the last digit, are as far.
ALIKE = 0.1


def quality(board: Frame, metric: str, blind: bool = False) -> Column:
    """A metric's column; with `blind`, dense is followed by what it scores on blank images ('-': not measured)."""
    quantity, rows = board.quantity(metric), board.column(metric)
    kept_all = rows["unguided"] & ~board.dense
    texts = [
        (*_value(row, quantity.scale, full), "" if full else marks(row, quantity.better))
        for row, full in zip(rows.itertuples(), kept_all, strict=True)
    ]
    widths = [max(len(text[part]) for text in texts) for part in range(4)]
    cells = [_cell(parts, widths) for parts in texts]
    comparable = not rows["at_chance"][board.dense].any()
    worth = ~kept_all & ~rows["at_chance"] & comparable
    best = _best(board, rows["value"].where(worth), quantity.better)
    if blind:
        place = _after_dense(board)
        cells.insert(place, _blind(board, metric, cells[place - 1]))
        best.insert(place, False)
    task = board.metrics[metric]
    of_task = "" if task.lower() in quantity.title.lower() else f"{task}, "
    return Column(quantity.title, f"{of_task}{quantity.unit} (Δ dense)", cells, best)


def shown_blind(board: Frame, metrics: Sequence[str]) -> bool:
    """Whether a board has a score on blank images in one of the metrics."""
    return any(blind_value(board, metric) is not None for metric in metrics)


def blind_value(board: Frame, metric: str) -> float | None:
    """Dense's score on blank images, in the metric's unit; None where it was not measured."""
    found = board.column(metric)["blind"][board.dense].dropna()
    return board.quantity(metric).scale * float(found.iloc[0]) if len(found) else None


def names_with_blind(names: Sequence[Column], board: Frame) -> list[Column]:
    """The names of a board's rows, with the row 'blind' after dense."""
    place = _after_dense(board)
    said = {"method": "blind", "ratio": "-"}
    return [
        replace(
            column,
            cells=[*column.cells[:place], said.get(column.heading, ""), *column.cells[place:]],
            best=[*column.best[:place], False, *column.best[place:]],
        )
        for column in names
    ]


def _after_dense(board: Frame) -> int:
    return int(board.dense.sum())


def _blind(board: Frame, metric: str, dense: str) -> str:
    """The score alone, in line with dense's value in the cell above."""
    value = blind_value(board, metric)
    text = "-" if value is None else f"{value:.1f}"
    return text + " " * (len(dense) - len(re.split(r" [±\[]", dense)[0]))


def _cell(parts: Sequence[str], widths: Sequence[int]) -> str:
    """A value, its spread over seeds and its delta, each under the same of other cells, and its marks behind them."""
    *numbers, mark = parts
    shown = " ".join(f"{part:>{width}}" for part, width in zip(numbers, widths, strict=False) if width)
    return shown + f"{mark:<{widths[-1]}}"


def _value(row: Any, scale: float, kept_all: bool = False) -> tuple[str, str, str]:
    """'93.1 ±1.2' or '99.0 [96.9, 100]', 'sd 0.4' of several seeds, and '(-2.0 ±0.8)'; or why there is none.

    `kept_all`: the value is of all tokens, which is marked, as is a value at chance.
    """
    if row.error:
        return row.error, "", ""
    marked = KEPT_ALL * kept_all + AT_CHANCE * row.at_chance
    value = f"{scale * row.value:.1f}{_interval(row.value, row.low, row.high, scale)}{marked}"
    over_seeds = "" if pd.isna(row.sd) else f"sd {scale * row.sd:.1f}"
    if pd.isna(row.delta):
        return value, over_seeds, ""
    wide = _interval(row.delta, row.delta_low, row.delta_high, scale)
    return value, over_seeds, f"({round(scale * row.delta, 1) + 0.0:+.1f}{wide})"


def _interval(value: float, low: float, high: float, scale: float) -> str:
    """' ±1.2', the farther end, where both ends are about as far, else ' [94.8, 100]'; '' without an interval."""
    if pd.isna(low):
        return ""
    below, above = (round(scale * part, 1) for part in (value - low, high - value))
    alike = abs(below - above) <= max(0.1, ALIKE * max(below, above)) + 1e-9 and bool(below) == bool(above)
    return f" ±{max(below, above):.1f}" if alike else f" [{shortest(scale * low)}, {shortest(scale * high)}]"


def _best(board: Frame, values: pd.Series, better: str | None) -> list[bool]:
    """True for the best of the reduced methods at one ratio, where there are several to compare."""
    compared = ~board.dense & values.notna()
    if not compared.any():  # pandas would take an empty frame's rows from the values
        return [False] * len(board.settings)
    reduced = board.settings[compared].assign(value=values)
    groups = reduced.groupby("ratio", dropna=False)["value"]
    best = groups.transform("min" if better == "lower" else "max") == reduced["value"]
    best &= (groups.transform("size") > 1) & (better is not None)
    return [bool(best.get(index, False)) for index in board.settings.index]
