"""The figure of a study of layers: quality by where a method reduces, and by in how many stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.report.frame import Frame
from harness.report.lines import (
    DOTS,
    bars_words,
    blind_handle,
    blind_line,
    dense_handle,
    dense_line,
    dense_words,
    metric_line,
    scale,
)
from harness.report.style import method_styles

PLACEMENTS = ("early", "even", "late")


def layers_figure(frame: Frame, metrics: Sequence[str]) -> Figure:
    """Rows: metrics; left: by placement, at one number of stages; right: by stages, at one placement."""
    staged = frame.settings[~frame.dense]
    shown = sorted(set(staged["method"]))
    styles = method_styles(shown)
    count = _richest(staged, "stages", "placement")
    placement = _richest(staged, "placement", "stages")
    given = set(staged["placement"].dropna())
    names = [name for name in PLACEMENTS if name in given] + sorted(given - set(PLACEMENTS))
    sweeps = (
        (f"by placement, {count:g} stages", staged[staged["stages"] == count], "placement", names),
        (
            f"by stages, placed {placement}",
            staged[staged["placement"] == placement],
            "stages",
            sorted(staged["stages"].dropna().unique()),
        ),
    )
    figure = Figure(figsize=(8.2, 2.35 * len(metrics) + 0.9), layout="constrained")
    grid = figure.subplots(len(metrics), 2, squeeze=False, sharey="row")
    blind = False
    for row, metric in zip(grid, metrics, strict=True):
        quantity, values = frame.quantity(metric), frame.column(metric)
        for axes, (title, rows, by, ticks) in zip(row, sweeps, strict=True):
            dense_line(axes, frame, metric)
            for number, method in enumerate(shown):
                line = rows[rows["method"] == method].sort_values(by, key=lambda column: column.map(ticks.index))
                # A little apart, so that intervals at the same place can be told from each other.
                aside = 0.06 * (number - (len(shown) - 1) / 2)
                place = np.array([ticks.index(value) for value in line[by]], dtype=float) + aside
                style = {**styles[method], **DOTS, "linewidth": 1.6}
                metric_line(axes, values.loc[line.index], place, quantity.scale, style, 10 + number)
            axes.set_xticks(range(len(ticks)), [tick if isinstance(tick, str) else f"{tick:g}" for tick in ticks])
            axes.set_xlim(-0.4, len(ticks) - 0.6)
            axes.set_title(f"{quantity.title}, {title}")
        drawn = [blind_line(axes, frame, metric) for axes in row]
        blind |= any(drawn)
        row[0].set_ylabel("%")
        scale(row[0], quantity)
    handles: list[Any] = [Line2D([], [], label=name, linewidth=1.6, **styles[name], **DOTS) for name in shown]
    labels = [*shown, dense_words(frame, metrics)]
    handles.append(dense_handle())
    if blind:
        handles.append(blind_handle())
        labels.append("dense, blank images")
    if words := bars_words(frame, metrics):
        figure.supxlabel(words, fontsize=9.5)
    ratios = staged["ratio"].dropna().unique()
    budget = f"token ratio {ratios[0]:g}" if len(ratios) == 1 else "several token ratios"
    figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=len(handles),
        fontsize=9,
        title=f"Where to reduce, at {budget}",
        alignment="left",
    )
    return figure


def _richest(rows: pd.DataFrame, hold: str, vary: str) -> Any:
    """The value of `hold` at which most values of `vary` were measured; of equals, one in the middle."""
    spread = rows.groupby(hold)[vary].nunique()
    best = sorted(
        spread.index[spread == spread.max()],
        key=lambda value: PLACEMENTS.index(value) if value in PLACEMENTS else 0,
    )
    return best[len(best) // 2]
