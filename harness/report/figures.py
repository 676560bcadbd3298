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
from harness.report.frame import Frame, boards, study_frame
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
from harness.report.settings import DENSE
from harness.report.style import INK, method_styles, save, styled

PANELS_ACROSS = 3
LINES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Against:
    """A quality figure's x axis: quantity, scale, label; `dense` marks where dense stands."""

    name: str
    quantity: str
    scale: float
    label: str
    dense: bool = False


AGAINST = (
    Against("macs", "forward_gmacs", 1.0, "forward GMACs per image (vision tower, scoring included)", dense=True),
    Against("ratio", "token_ratio", 100.0, "tokens kept, mean over blocks (%)"),
)


def plot_quality(
    frame: Frame, folder: Path | str, metrics: Sequence[str] | None = None, stem: str = "quality"
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
        if metric not in frame.metrics:
            raise unknown("metric", metric, frame.metrics)
    written: list[Path] = []
    for number, (title, board) in enumerate(boards(frame), 1):
        chosen = _measured(board, metrics or board.headline())
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
    if "placement" not in frame.settings or frame.settings["placement"].isna().all():
        return plot_quality(frame, folder, metrics, stem=study)
    chosen = _measured(frame, metrics or _study_metrics(frame))
    if not chosen:
        raise HarnessError(f"nothing to draw for study {study}: no cell has a value")
    with styled():
        return save(layers_figure(frame, chosen), Path(folder) / study)


def _quality_figure(board: Frame, metrics: Sequence[str], against: Against, title: str) -> Figure:
    across = min(PANELS_ACROSS, max(2, len(metrics)))  # beside one panel stands what is too wide above it
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


def _measured(frame: Frame, metrics: Sequence[str]) -> list[str]:
    return [metric for metric in metrics if frame.column(metric)["value"].notna().any()]


def _panel(
    axes: Axes, board: Frame, lines: Sequence[tuple[str, pd.Index, dict[str, Any]]], metric: str, against: Against
) -> bool:
    """One metric, by the costs of its own task; whether it shows a line of blank images."""
    quantity, values = board.quantity(metric), board.column(metric)
    place, tokens = (spent(board, metric, name) for name in (against.quantity, "token_ratio"))
    values = values.assign(place=against.scale * place, tokens=tokens)
    dense = values["place"][board.dense].dropna()
    dense_line(axes, board, metric, float(dense.iloc[0]) if against.dense and len(dense) else None)
    for number, (_, index, style) in enumerate(lines):
        rows = values.loc[index].dropna(subset="place").sort_values("tokens")
        metric_line(axes, rows, rows["place"].to_numpy(dtype=float), quantity.scale, style, 10 + number)
    axes.set_title(quantity.title)
    axes.margins(x=0.06)
    drawn = blind_line(axes, board, metric)
    scale(axes, quantity)
    return drawn


def spent(board: Frame, metric: str, cost: str) -> pd.Series:
    """A cost by setting, its own for the metric's task where tasks differ in it; dense's where a text-guided method
    fell back, in metrics of images seen without a text."""
    task, own = board.metrics[metric], None
    if board.sizes:
        own = board.column(cost, [task])["value"]
    values = board.column(cost)["value"] if own is None or own.isna().all() else own
    if not board.dense.any():
        return values
    return values.mask(board.column(metric)["unguided"], values[board.dense].iloc[0])


def _method_lines(board: Frame) -> list[tuple[str, pd.Index, dict[str, Any]]]:
    """Name, settings and style of each line: one per method, and one per variant where a method has several."""
    settings = board.settings
    shown = sorted({name for name in settings["method"] if name != DENSE})
    styles = method_styles(shown)
    lines = []
    for method in shown:
        variants = settings[settings["method"] == method].groupby("variant", sort=True)
        for place, (variant, rows) in enumerate(variants):
            style = {**styles[method], **DOTS, "linestyle": LINES[place % len(LINES)], "linewidth": 1.6}
            lines.append((f"{method} {variant}".strip(), rows.index, style))
    return lines


def _study_metrics(frame: Frame) -> list[str]:
    """At most three rows of panels: what was re-ranked says more than what was not."""
    metrics = frame.headline()
    reranked = [metric for metric in metrics if metric.endswith("_rerank")]
    return [metric for metric in metrics if not reranked or metric in reranked or f"{metric}_rerank" not in metrics]
