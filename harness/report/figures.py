"""Figures of a frame: quality against compute and against tokens, and what a study of layers shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.kit.errors import HarnessError
from harness.kit.registry import unknown
from harness.report.frame import boards, study_frame
from harness.report.layers import layers_figure
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
from harness.report.metric_names import WITHOUT_TEXT, headline_metrics, metrics_of, title_of
from harness.report.row import SIZED
from harness.report.settings import DENSE
from harness.report.style import INK, method_styles, save, styled

PANELS_ACROSS = 3
LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Against:
    """A quality figure's x axis: frame column, scale, label; `dense` marks where dense stands."""

    name: str
    column: str
    scale: float
    label: str
    dense: bool = False


AGAINST = (
    Against("macs", "forward_gmacs", 1.0, "forward GMACs per image (vision tower, scoring included)", dense=True),
    Against("ratio", "token_ratio", 100.0, "tokens kept, mean over blocks (%)"),
)


def plot_quality(
    frame: pd.DataFrame, folder: Path | str, metrics: Sequence[str] | None = None, stem: str = "quality"
) -> list[Path]:
    """Draw <stem>-macs and <stem>-ratio (SVG and PNG): a panel per metric, a line per method, dense as a
    band.

    Error bars are the standard deviation over seeds, of one seed the 95 % interval. A thin dotted line is dense on
    blank images. Where tasks' towers see images of different sizes, a panel has the costs of its own task; a method
    that fell back for want of a text stands at dense's cost. With several boards (models, protocols) in the frame, each
    has its own files, numbered from the second. Raises
    HarnessError for an unknown metric, when nothing was measured, or when a file cannot be written.
    """
    for metric in metrics or ():
        if metric not in metrics_of(frame):
            raise unknown("metric", metric, metrics_of(frame))
    written: list[Path] = []
    for number, (title, board) in enumerate(boards(frame), 1):
        chosen = [m for m in (metrics or headline_metrics(board)) if board[m].notna().any()]
        if not chosen:
            raise HarnessError(f"nothing to draw for {title}: no cell has a value")
        for against in AGAINST:
            suffix = "" if number == 1 else f"-{number}"
            with styled():
                written += save(
                    _quality_figure(board, chosen, against, title),
                    Path(folder) / f"{stem}-{against.name}{suffix}",
                )
    return written


def plot_study(
    records: Iterable[Mapping[str, Any]],
    labels: Sequence[Mapping[str, Any]],
    study: str,
    folder: Path | str,
    metrics: Sequence[str] | None = None,
) -> list[Path]:
    """Draw a study: quality by placement and stages where its labels name them, otherwise as `plot_quality`.

    The files are <study>.svg and .png, or <study>-macs and <study>-ratio. Raises HarnessError as
    `study_frame` and `plot_quality`.
    """
    frame = study_frame(records, labels)
    if "placement" not in frame or frame["placement"].isna().all():
        return plot_quality(frame, folder, metrics, stem=study)
    chosen = [metric for metric in (metrics or _study_metrics(frame)) if frame[metric].notna().any()]
    if not chosen:
        raise HarnessError(f"nothing to draw for study {study}: no cell has a value")
    with styled():
        return save(layers_figure(frame, chosen), Path(folder) / study)


def _quality_figure(board: pd.DataFrame, metrics: Sequence[str], against: Against, title: str) -> Figure:
    across = min(PANELS_ACROSS, len(metrics))
    down = ceil(len(metrics) / across)
    figure = Figure(figsize=(3.1 * across + 0.4, 2.55 * down + 0.9), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False)
    for row in grid:
        row[0].set_ylabel("%")
    lines = _method_lines(board)
    blind = [_panel(axes, board, lines, metric, against) for axes, metric in zip(grid.flat, metrics, strict=False)]
    for axes in grid.flat[len(metrics) :]:
        axes.set_axis_off()
    figure.supxlabel("\n".join(filter(None, (against.label, bars_words(board, metrics)))), fontsize=9.5)
    handles: list[Any] = [Line2D([], [], label=name, **style) for name, _, style in lines]
    names = [handle.get_label() for handle in handles]
    handles.append(dense_handle())
    names.append(dense_words(board, metrics))
    if any(blind):
        handles.append(blind_handle())
        names.append("dense, blank images")
    if against.dense:
        handles.append(Line2D([], [], color=INK, linestyle=":", linewidth=0.9))
        names.append("cost of dense")
    empty = grid.flat[len(metrics) :]
    if len(empty):
        heading = title.replace(" · ", "\n")
        empty[0].legend(
            handles, names, loc="center left", fontsize=9.5, title=heading, alignment="left", labelspacing=0.7
        )
    else:
        columns = min(len(handles), 2 * across)
        figure.legend(
            handles, names, loc="outside upper left", ncols=columns, fontsize=9, title=title, alignment="left"
        )
    return figure


def _panel(
    axes: Axes,
    board: pd.DataFrame,
    lines: Sequence[tuple[str, pd.DataFrame, dict[str, Any]]],
    metric: str,
    against: Against,
) -> bool:
    """One metric, by the costs of its own task; whether it shows a line of blank images."""
    board = _as_spent(board, metric)
    column, tokens = (_column(board, name, metric) for name in (against.column, "token_ratio"))
    dense = board[board["method"] == DENSE][column].dropna()
    dense_line(axes, board, metric, against.scale * float(dense.iloc[0]) if against.dense and len(dense) else None)
    for place, (_, rows, style) in enumerate(lines):
        rows = board.loc[rows.index[board.loc[rows.index, column].notna()]].sort_values(tokens)
        metric_line(axes, rows, against.scale * rows[column].to_numpy(dtype=float), metric, style, 10 + place)
    axes.set_title(title_of(metric))
    axes.margins(x=0.06)
    drawn = blind_line(axes, board, metric)
    scale(axes, metric)
    return drawn


def _as_spent(board: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The board with dense's costs where a text-guided method fell back: in metrics of images seen without a text."""
    unguided = board[f"unguided_{board.attrs['tasks'][metric]}"].eq(True)
    dense = board[board["method"] == DENSE]
    if not WITHOUT_TEXT.fullmatch(metric) or not unguided.any() or not len(dense):
        return board
    spent = board.copy()
    costs = [name for name in board.columns if name in SIZED or any(name.startswith(f"{one}_") for one in SIZED)]
    for name in costs:
        spent.loc[unguided, name] = dense[name].iloc[0]
    return spent


def _column(board: pd.DataFrame, cost: str, metric: str) -> str:
    """The column of a cost: its own for the metric's task where tasks differ in it."""
    own = f"{cost}_{board.attrs['tasks'][metric]}"
    return own if own in board.columns and board[own].notna().any() else cost


def _method_lines(board: pd.DataFrame) -> list[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Name, rows and style of each line: one per method, and one per variant where a method has several."""
    shown = [name for name in dict.fromkeys(board["method"]) if name != DENSE]
    styles = method_styles(sorted(shown))
    lines = []
    for method in sorted(shown):
        variants = board[board["method"] == method].groupby("variant", sort=True)
        for place, (variant, rows) in enumerate(variants):
            style = {**styles[method], **DOTS, "linestyle": LINES[place % len(LINES)], "linewidth": 1.6}
            lines.append((f"{method} {variant}".strip(), rows, style))
    return lines


def _study_metrics(frame: pd.DataFrame) -> list[str]:
    """At most three rows of panels: what was re-ranked says more than what was not."""
    metrics = headline_metrics(frame)
    reranked = [metric for metric in metrics if metric.endswith("_rerank")]
    return [metric for metric in metrics if not reranked or metric in reranked or f"{metric}_rerank" not in metrics]
