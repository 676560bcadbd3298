"""Pareto fronts: quality against what it costs, a row of panels for each task and a column for each cost.

A setting is on the front where none has as much quality for less, or more for as much. Its steps say what can be had
for a cost; what lies under them is beaten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from harness.kit.errors import HarnessError
from harness.kit.registry import unknown
from harness.report.figures import spent
from harness.report.frame import Frame, boards
from harness.report.lines import DOTS, scale, spread
from harness.report.placing import place_labels
from harness.report.settings import DENSE
from harness.report.style import INK, method_styles, save, styled

CONTROLS = ("random", "downsample")
CONTROL_LINE: dict[str, Any] = {"color": "#8C8C8C", "linewidth": 0.9, "zorder": 3}
DASHES = {"random": (0, (1, 1.4)), "downsample": (0, (4, 2))}
FRONT_LINE: dict[str, Any] = {"color": INK, "linewidth": 1.5, "zorder": 6, "solid_joinstyle": "miter"}
FAINT = 0.45
ON_FRONT, BENEATH = 7.5, 5.0  # sizes of marks
# So many methods beneath the front are named beside their best point; of more the legend speaks.
MOST_NAMED = 4
ROOM = 0.14  # above and below the points, for labels


@dataclass(frozen=True)
class Cost:
    """A column of panels: quantity, factor to the unit of its label."""

    quantity: str
    factor: float
    label: str


COSTS = (
    Cost("forward_gmacs", 1.0, "forward GMACs per image"),
    Cost("train_step_gmacs", 1.0, "training step, GMACs per image"),
    Cost("latency_ratio", 100.0, "latency, % of dense"),
    Cost("train_mib_per_image", 1.0, "training memory, MiB per image"),
)


def plot_pareto(
    frame: Frame, folder: Path | str, metrics: Sequence[str] | None = None, stem: str = "pareto"
) -> list[Path]:
    """Draw <stem>.svg and .png for each board, numbered from the second: a metric of each task, or `metrics`.

    Bars are 95 % intervals, of several seeds their standard deviation. Boards where nothing but dense was measured have
    no figure. Raises HarnessError for an unknown metric, where no board has a method, or when a file cannot be written.
    """
    for metric in metrics or ():
        if metric not in frame.metrics:
            raise unknown("metric", metric, frame.metrics)
    drawn = [(title, board) for title, board in boards(frame) if not board.dense.all()]
    if not drawn:
        raise HarnessError("nothing to draw: no method is measured beside dense; `python -m harness run` does")
    written: list[Path] = []
    for number, (title, board) in enumerate(drawn, 1):
        chosen = list(metrics) if metrics is not None else one_of_each_task(board)
        name = stem if number == 1 else f"{stem}-{number}"
        with styled():
            written += save(_figure(board, chosen, title), Path(folder) / name)
    return written


def one_of_each_task(board: Frame) -> list[str]:
    """The first headline metric of each task; of retrieval the re-ranked one, where images are seen beside texts."""
    found: dict[str, str] = {}
    for metric in board.headline():
        task, quantity = board.metrics[metric], board.quantity(metric)
        if task not in found or (quantity.with_text and not board.quantity(found[task]).with_text):
            found[task] = metric
    return list(found.values())


def front(cost: NDArray[np.float64], value: NDArray[np.float64]) -> list[int]:
    """The places of the points (n,) that are on the front, by rising cost; of equal points the first."""
    order = sorted(range(len(cost)), key=lambda place: (cost[place], -value[place], place))
    chosen: list[int] = []
    for place in order:
        if not chosen or value[place] > value[chosen[-1]]:
            chosen.append(place)
    return chosen


def _figure(board: Frame, metrics: Sequence[str], title: str) -> Figure:
    costs = [cost for cost in COSTS if board.column(cost.quantity)["value"].notna().any()]
    figure = Figure(figsize=(3.5 * len(costs) + 0.3, 3.1 * len(metrics) + 1.2), layout="constrained")
    grid = figure.subplots(len(metrics), len(costs), squeeze=False)
    styles = method_styles(sorted(set(board.settings["method"])))
    styles[DENSE] = {"color": INK, "marker": "D"}
    labelled: list[tuple[Axes, list[tuple[float, float, str]], NDArray[np.float64]]] = []
    for row, metric in zip(grid, metrics, strict=True):
        for axes, cost in zip(row, costs, strict=True):
            labelled.append((axes, *_panel(axes, board, metric, cost, styles)))
        quantity = board.quantity(metric)
        row[0].set_ylabel(f"{quantity.title}, {quantity.unit}")
    for axes, cost in zip(grid[-1], costs, strict=True):
        axes.set_xlabel(cost.label)
    shown = [name for name in styles if name not in (DENSE, *CONTROLS)]
    look = DOTS | {"linestyle": "", "markersize": ON_FRONT}
    handles = [Line2D([], [], label=name, **styles[name], **look) for name in (DENSE, *shown)]
    handles += [
        Line2D([], [], label=name, linestyle=DASHES[name], **CONTROL_LINE) for name in CONTROLS if name in styles
    ]
    handles.append(Line2D([], [], label="Pareto front", **FRONT_LINE))
    figure.legend(handles=handles, loc="outside lower left", ncols=min(8, len(handles)), fontsize=9)
    figure.suptitle(title, x=0.005, ha="left", fontsize=10, fontweight="bold", parse_math=False)
    figure.canvas.draw()
    for axes, words, points in labelled:
        place_labels(axes, words, points)
    return figure


def _panel(
    axes: Axes, board: Frame, metric: str, cost: Cost, styles: dict[str, dict[str, Any]]
) -> tuple[list[tuple[float, float, str]], NDArray[np.float64]]:
    """One metric against one cost; what is to be labelled, as (x, y, words), and all points (n, 2)."""
    quantity = board.quantity(metric)
    rows = board.column(metric).assign(
        place=cost.factor * spent(board, metric, cost.quantity).astype(float),
        method=board.settings["method"],
        ratio=board.settings["ratio"].astype(float),
    )
    if cost.quantity == "latency_ratio":  # dense, timed beside itself
        rows.loc[rows["method"] == DENSE, "place"] = cost.factor
    kept_all = rows["unguided"] & (rows["method"] != DENSE)  # dense by another name
    rows = rows[~kept_all].dropna(subset=["place", "value"])
    place, value = rows["place"].to_numpy(dtype=float), quantity.scale * rows["value"].to_numpy(dtype=float)
    on_front = front(place, value)
    for name in CONTROLS:
        line = rows[rows["method"] == name].sort_values("place")
        axes.plot(line["place"], quantity.scale * line["value"], linestyle=DASHES[name], **CONTROL_LINE)
    if on_front:
        steps = place[on_front], value[on_front]
        axes.step(
            *(np.append(part, end) for part, end in zip(steps, (place.max(), steps[1][-1]))), where="post", **FRONT_LINE
        )
    for number, row in enumerate(rows.itertuples()):
        chosen = number in on_front
        _point(axes, row, (place[number], value[number]), quantity.scale, styles[str(row.method)], chosen)
    scale(axes, quantity)
    axes.set_ylabel("")
    axes.margins(x=0.10)
    low, high = axes.get_ylim()
    axes.set_ylim(low - ROOM * (high - low), high + ROOM * (high - low))
    points = np.stack([place, value], axis=1)
    return _words(rows, on_front, place, value), np.concatenate([points, _along(points[on_front])])


def _point(axes: Axes, row: Any, at: tuple[float, float], factor: float, style: dict[str, Any], on_front: bool) -> None:
    """A setting's mark with its interval, faint beneath the front."""
    low, high = spread(row, factor)
    alpha = 1.0 if on_front or row.method == DENSE else FAINT
    bars = np.clip(np.nan_to_num([[at[1] - low], [high - at[1]]]), 0, None)
    axes.errorbar(*at, yerr=bars, fmt="none", ecolor=style["color"], elinewidth=1.0, alpha=alpha, zorder=7)
    look = DOTS | {"markersize": ON_FRONT if on_front else BENEATH, "linestyle": "", "alpha": alpha}
    axes.plot(*at, zorder=8, **style, **look)


def _along(front_n2: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points on the steps, which labels keep clear of."""
    if len(front_n2) < 2:
        return front_n2
    shares = np.linspace(0, 1, 15)[:, None]
    corners = [(here, np.array([there[0], here[1]]), there) for here, there in pairwise(front_n2)]
    return np.concatenate([begin + shares * (end - begin) for one in corners for begin, end in pairwise(one)])


def _words(
    rows: pd.DataFrame, on_front: Sequence[int], place: NDArray[np.float64], value: NDArray[np.float64]
) -> list[tuple[float, float, str]]:
    """What is labelled: each point on the front, dense and the controls, and of few other methods each once."""
    found = {number: _name(rows.iloc[number]) for number in on_front}
    named = {rows.iloc[number]["method"] for number in on_front}
    others = [method for method in dict.fromkeys(rows["method"]) if method not in named]
    for method in others if len(others) <= MOST_NAMED else [name for name in others if name in (DENSE, *CONTROLS)]:
        numbers = np.flatnonzero(rows["method"] == method)
        # Lines of controls are named where they end, apart from the others.
        best = numbers[place[numbers].argmin() if method in CONTROLS else value[numbers].argmax()]
        found[int(best)] = str(method) if method in CONTROLS else _name(rows.iloc[int(best)])
    return [(place[number], value[number], words) for number, words in found.items()]


def _name(row: pd.Series) -> str:
    """'tome .7' of a setting's row."""
    if row["method"] == DENSE or pd.isna(row["ratio"]):
        return str(row["method"])
    return f"{row['method']} {row['ratio']:g}".replace(" 0.", " .")
