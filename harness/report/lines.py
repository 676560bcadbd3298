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

from harness.report.metric_names import unit_of
from harness.report.quality_columns import blind_value
from harness.report.settings import DENSE
from harness.report.style import INK

DENSE_LINE: dict[str, Any] = {"color": INK, "linestyle": "--", "linewidth": 1.1}
BLIND_LINE: dict[str, Any] = {"color": INK, "linestyle": (0, (1, 1.5)), "linewidth": 0.8}
BLIND_REACH = 0.3  # A line this far below the axis, as a share of its length, still lengthens it.
DOTS: dict[str, Any] = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}


def spread(row: pd.Series, metric: str) -> tuple[float, float]:
    """The lower and upper end (%) of a value's error bar: ± sd over several seeds, or of one the 95 % interval."""
    sd = row[f"{metric}__sd"]
    if pd.isna(sd):
        return 100 * row[f"{metric}__low"], 100 * row[f"{metric}__high"]
    return 100 * (row[metric] - sd), 100 * (row[metric] + sd)


def dense_line(axes: Axes, board: pd.DataFrame, metric: str, marked: float | None = None) -> None:
    """Dense's value across the panel, its interval as a band; `marked` is its place on the x axis."""
    dense = board[(board["method"] == DENSE) & board[metric].notna()]
    if dense.empty:
        return
    row = dense.iloc[0]
    axes.axhspan(*spread(row, metric), color=INK, alpha=0.10, linewidth=0)
    axes.axhline(100 * row[metric], **DENSE_LINE)
    if marked is not None:
        axes.axvline(marked, color=INK, linestyle=":", linewidth=0.9)


def blind_line(axes: Axes, board: pd.DataFrame, metric: str) -> bool:
    """Dense's score on blank images across the panel; in words in a corner where a line would squash the axis.

    To be called when everything else is drawn. Returns whether a line was drawn.
    """
    value = blind_value(board, metric)
    if value is None:
        return False
    low, high = axes.get_ylim()
    if low - BLIND_REACH * (high - low) <= 100 * value <= high:
        axes.axhline(100 * value, **BLIND_LINE)
        return True
    axes.annotate(
        f"blank images: {100 * value:.1f}",
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


def dense_words(board: pd.DataFrame, metrics: Sequence[str]) -> str:
    """What the legend says of dense's band, and so of the error bars."""
    dense = board[board["method"] == DENSE]
    return "dense, sd over seeds" if _several(dense, metrics) else "dense, 95 % interval"


def bars_words(board: pd.DataFrame, metrics: Sequence[str]) -> str:
    """A line that says what the error bars are where they are not all 95 % intervals; else ''."""
    return (
        "error bars: standard deviation over seeds; of one seed the 95 % interval" if _several(board, metrics) else ""
    )


def _several(rows: pd.DataFrame, metrics: Sequence[str]) -> bool:
    return any(rows[f"{metric}__sd"].notna().any() for metric in metrics)


def dense_handle() -> tuple[Patch, Line2D]:
    """What a legend shows for `dense_line`."""
    return Patch(color=INK, alpha=0.10, linewidth=0), Line2D([], [], **DENSE_LINE)


def metric_line(
    axes: Axes,
    rows: pd.DataFrame,
    place: NDArray[np.float64],
    metric: str,
    style: Mapping[str, Any],
    order: int,
) -> None:
    """A metric at the places (rows,) on the x axis, with its intervals; rows without a value are left out."""
    value = 100 * rows[metric].to_numpy(dtype=float)
    low, high = np.array([spread(row, metric) for _, row in rows.iterrows()], dtype=float).reshape(-1, 2).T
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


def scale(axes: Axes, metric: str) -> None:
    """At most five ticks; of fractions nothing above 100 % but a margin, of other scores their own unit."""
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if unit_of(metric) != "%":
        axes.set_ylabel(unit_of(metric))
        return
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, 100 + 0.03 * (100 - low)))
