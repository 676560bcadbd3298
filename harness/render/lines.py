"""What several figures draw: dense as a line with its band, a metric with its intervals, a percent axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from harness.render.frame import DENSE
from harness.render.style import INK

DENSE_LINE: dict[str, Any] = {"color": INK, "linestyle": "--", "linewidth": 1.1}
DOTS: dict[str, Any] = {"markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}


def dense_line(axes: Axes, board: pd.DataFrame, metric: str, marked: float | None = None) -> None:
    """Dense's value across the panel, its interval as a band; `marked` is its place on the x axis."""
    dense = board[(board["method"] == DENSE) & board[metric].notna()]
    if dense.empty:
        return
    row = dense.iloc[0]
    axes.axhspan(100 * row[f"{metric}__low"], 100 * row[f"{metric}__high"], color=INK, alpha=0.10, linewidth=0)
    axes.axhline(100 * row[metric], **DENSE_LINE)
    if marked is not None:
        axes.axvline(marked, color=INK, linestyle=":", linewidth=0.9)


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
    low, high = (100 * rows[f"{metric}__{end}"].to_numpy(dtype=float) for end in ("low", "high"))
    there = np.isfinite(value)
    spread = np.clip(np.nan_to_num(np.array([value - low, high - value])), 0, None)[:, there]
    axes.errorbar(
        place[there],
        value[there],
        yerr=spread,
        fmt="none",
        ecolor=style["color"],
        elinewidth=1.1,
        capsize=2,
        zorder=order,
    )
    axes.plot(place[there], value[there], zorder=order + 0.5, **style)


def percent(axes: Axes) -> None:
    """At most five ticks, and nothing above 100 % but a margin."""
    axes.yaxis.set_major_locator(MaxNLocator(5))
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, 100 + 0.03 * (100 - low)))
