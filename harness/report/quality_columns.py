"""The columns of a quality table: a value with its interval, its spread over seeds and its difference to dense."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from harness.report.layout import Column
from harness.report.metric_names import title_of, unit_of
from harness.report.settings import DENSE


def quality(board: pd.DataFrame, metric: str, blind: bool = False) -> Column:
    """A metric's column; with `blind`, dense is followed by what it scores on blank images ('-': not measured)."""
    texts = [_value(row, metric) for _, row in board.iterrows()]
    widths = [max(len(text[part]) for text in texts) for part in range(3)]
    cells = [_cell(parts, widths) for parts in texts]
    best = _best(board, metric)
    if blind:
        place = _after_dense(board)
        cells.insert(place, _blind(board, metric, cells[place - 1]))
        best.insert(place, False)
    return Column(title_of(metric), f"{unit_of(metric)} (Δ dense)", cells, best)


def shown_blind(board: pd.DataFrame, metrics: Sequence[str]) -> bool:
    """Whether a board has a score on blank images in one of the metrics."""
    return any(blind_value(board, metric) is not None for metric in metrics)


def blind_value(board: pd.DataFrame, metric: str) -> float | None:
    """Dense's score on blank images; None where it was not measured."""
    found = board[board["method"] == DENSE][f"{metric}__blind"].dropna()
    return float(found.iloc[0]) if len(found) else None


def names_with_blind(names: Sequence[Column], board: pd.DataFrame) -> list[Column]:
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


def _after_dense(board: pd.DataFrame) -> int:
    return int((board["method"] == DENSE).sum())


def _blind(board: pd.DataFrame, metric: str, dense: str) -> str:
    """The score alone, in line with dense's value in the cell above."""
    value = blind_value(board, metric)
    text = "-" if value is None else f"{100 * value:.1f}"
    return text + " " * (len(dense) - len(dense.split(" ±")[0]))


def _cell(parts: Sequence[str], widths: Sequence[int]) -> str:
    """A value, its spread over seeds and its delta, each under the same of other cells."""
    return " ".join(f"{part:>{width}}" for part, width in zip(parts, widths, strict=True) if width)


def _value(row: pd.Series, metric: str) -> tuple[str, str, str]:
    """'93.1 ±1.2', 'sd 0.4' where there are several seeds, and '(-2.0 ±0.8)'; or why there is none."""
    if row[f"{metric}__error"]:
        return row[f"{metric}__error"], "", ""
    spread = max(row[metric] - row[f"{metric}__low"], row[f"{metric}__high"] - row[metric])
    value = f"{100 * row[metric]:.1f}" + ("" if pd.isna(spread) else f" ±{100 * spread:.1f}")
    sd = row[f"{metric}__sd"]
    over_seeds = "" if pd.isna(sd) else f"sd {100 * sd:.1f}"
    delta, low, high = (row[f"{metric}__delta{end}"] for end in ("", "_low", "_high"))
    if pd.isna(delta):
        return value, over_seeds, ""
    wide = "" if pd.isna(low) else f" ±{100 * max(delta - low, high - delta):.1f}"
    return value, over_seeds, f"({round(100 * delta, 1) + 0.0:+.1f}{wide})"


def _best(board: pd.DataFrame, metric: str) -> list[bool]:
    """True for the best of the reduced methods at one ratio, where there are several to compare."""
    reduced = board[(board["method"] != DENSE) & board[metric].notna()]
    groups = reduced.groupby("ratio", dropna=False)[metric]
    best = (groups.transform("max") == reduced[metric]) & (groups.transform("size") > 1)
    return [bool(best.get(index, False)) for index in board.index]
