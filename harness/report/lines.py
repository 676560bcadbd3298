"""What several figures draw: dense as a line with its band, a metric with its intervals, a percent axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from harness.metrics.quantity import Quantity
from harness.report.frame import Frame
from harness.report.quality_columns import blind_value
from harness.report.style import INK

DENSE_LINE: dict[str, Any] = {"color": INK, "linestyle": "--", "linewidth": 1.1}
BLIND_LINE: dict[str, Any] = {"color": INK, "linestyle": (0, (1, 1.5)), "linewidth": 0.8}
BLIND_REACH = 0.3  # A line this far below the axis, as a share of its length, still lengthens it.
DOTS: dict[str, Any] = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}


def spread(row: Any, scale: float) -> tuple[float, float]:
    """The lower and upper end of a value's error bar: ± sd over several seeds, or of one the 95 % interval."""
    if pd.isna(row.sd):
        return scale * row.low, scale * row.high
    return scale * (row.value - row.sd), scale * (row.value + row.sd)


def dense_line(axes: Axes, board: Frame, metric: str, marked: float | None = None) -> None:
    """Dense's value across the panel, its interval as a band; `marked` is its place on the x axis."""
    dense, factor = board.column(metric)[board.dense].dropna(subset="value"), board.quantity(metric).scale
    if dense.empty:
        return
    row = dense.iloc[0]
    axes.axhspan(*spread(row, factor), color=INK, alpha=0.10, linewidth=0)
    axes.axhline(factor * row["value"], **DENSE_LINE)
    if marked is not None:
        axes.axvline(marked, color=INK, linestyle=":", linewidth=0.9)


def blind_line(axes: Axes, board: Frame, metric: str) -> bool:
    """Dense's score on blank images across the panel; in words in a corner where a line would squash the axis.

    To be called when everything else is drawn. Returns whether a line was drawn.
    """
    value = blind_value(board, metric)
    if value is None:
        return False
    low, high = axes.get_ylim()
    if low - BLIND_REACH * (high - low) <= value <= high:
        axes.axhline(value, **BLIND_LINE)
        return True
    axes.annotate(
        f"blank images: {value:.1f}",
        (0.98, 0.03),
        xycoords="axes fraction",
        ha="right",
        va="bottom",
        fontsize=8,
        zorder=30,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1.5},
    )
    return False


def blind_handle() -> Line2D:
    """What a legend shows for `blind_line`."""
    return Line2D([], [], **BLIND_LINE)


def dense_words(board: Frame, metrics: Sequence[str]) -> str:
    """What the legend says of dense's band, and so of the error bars."""
    return "dense, sd over seeds" if _several(board, metrics, board.dense) else "dense, 95 % interval"


def bars_words(board: Frame, metrics: Sequence[str]) -> str:
    """A line that says what the error bars are where they are not all 95 % intervals; else ''."""
    several = _several(board, metrics, board.dense | ~board.dense)
    return "error bars: standard deviation over seeds; of one seed the 95 % interval" if several else ""


def _several(board: Frame, metrics: Sequence[str], chosen: pd.Series) -> bool:
    return any(board.column(metric)["sd"][chosen].notna().any() for metric in metrics)


def dense_handle() -> tuple[Patch, Line2D]:
    """What a legend shows for `dense_line`."""
    return Patch(color=INK, alpha=0.10, linewidth=0), Line2D([], [], **DENSE_LINE)


def metric_line(
    axes: Axes,
    rows: pd.DataFrame,
    place: NDArray[np.float64],
    factor: float,
    style: Mapping[str, Any],
    order: int,
) -> None:
    """Values of a column times `factor` at the places (rows,) on the x axis, with their intervals; what is not there
    is left out."""
    value = factor * rows["value"].to_numpy(dtype=float)
    low, high = np.array([spread(row, factor) for row in rows.itertuples()], dtype=float).reshape(-1, 2).T
    there = np.isfinite(value)
    bars = np.clip(np.nan_to_num(np.array([value - low, high - value])), 0, None)[:, there]
    axes.errorbar(
        place[there],
        value[there],
        yerr=bars,
        fmt="none",
        ecolor=style["color"],
        elinewidth=1.1,
        capsize=2,
        zorder=order,
    )
    axes.plot(place[there], value[there], zorder=order + 0.5, **style)


def scale(axes: Axes, quantity: Quantity) -> None:
    """At most five ticks; of fractions nothing above 100 % but a margin, of other scores their own unit."""
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if quantity.unit != "%":
        axes.set_ylabel(quantity.unit)
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, 100 + 0.03 * (100 - low)))
