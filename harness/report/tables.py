"""Tables of a frame as text (at most 110 columns), CSV, Markdown and LaTeX.

Percent with one decimal; ± or brackets are the 95 % interval, sd the standard deviation over seeds. Quality,
throughput and costs stand in parts below each other, so that a part fits a screen or a page. CSV is the long frame: a
row per setting, task and quantity, with the exact numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.kit.registry import unknown
from harness.kit.shown import csv_cell, markdown_text, on_one_line
from harness.report.chance import AT_CHANCE
from harness.report.cost_columns import costs_by_size, throughput
from harness.report.frame import Frame, boards, study_frame
from harness.report.layout import Column, Part, latex, latex_note, markdown, plain, text
from harness.report.notes import notes
from harness.report.quality_columns import names_with_blind, quality, shown_blind
from harness.report.summary import summary, summary_notes

FORMATS = ("text", "csv", "md", "latex")
# What a ratio is of, where it is not of tokens.
MATCHED = {"macs": " MACs", "train-macs": " train MACs"}


def render_table(frame: Frame, format: str = "text", metrics: Sequence[str] | None = None) -> str:
    """The frame as a table, without a newline at its end; `metrics` instead of the headline ones.

    Raises HarnessError for an unknown format or metric.
    """
    return _render(frame, format, metrics, _method_columns)


def render_summary(frame: Frame, format: str = "text") -> str:
    """The frame's summary: a row a setting, for those who look once. Raises HarnessError for an unknown format."""
    draw = _writer(format)
    parts = [
        Part(f"Summary, % of dense · {title}", _method_columns(board.settings), summary(board))
        for title, board in boards(frame)
    ]
    write = {"md": lambda line: "- " + markdown_text(line), "latex": latex_note}.get(format, on_one_line)
    return "\n".join([*(draw(part) for part in parts), *(write(line) for line in summary_notes(frame))]).rstrip("\n")


def _writer(format: str) -> Callable[[Part], str]:
    writers = {"text": text, "md": markdown, "latex": latex}
    if format not in writers:
        raise unknown("table format", format, writers)
    return writers[format]


def render_study_table(
    records: Iterable[Mapping[str, Any]],
    labels: Sequence[Mapping[str, Any]],
    format: str = "text",
    metrics: Sequence[str] | None = None,
) -> str:
    """A study's records as a table whose rows are named, and ordered, by its labels (see `study_frame`)."""
    return _render(study_frame(records, labels), format, metrics, _label_columns)


def _render(
    frame: Frame,
    format: str,
    metrics: Sequence[str] | None,
    name: Callable[[pd.DataFrame], list[Column]],
) -> str:
    if format not in FORMATS:
        raise unknown("table format", format, FORMATS)
    if format == "csv":
        return str(frame.long().map(csv_cell).to_csv(index=False, lineterminator="\n")).rstrip("\n")
    for metric in metrics or ():
        if metric not in frame.metrics:
            raise unknown("metric", metric, frame.metrics)
    parts: list[Part] = []
    for title, board in boards(frame):
        names = name(board.settings)
        chosen = board.headline() if metrics is None else list(metrics)
        blind = shown_blind(board, chosen)
        columns = [quality(board, metric, blind) for metric in chosen]
        parts.append(Part(f"Quality · {title}", names_with_blind(names, board) if blind else names, columns))
        if measured := throughput(board):
            parts.append(Part(f"Throughput · {title}", names, measured))
        for size, columns in costs_by_size(board):
            parts.append(Part(f"Cost of the vision tower per image{size} · {title}", names, columns))
    draw = _writer(format)
    write = {"md": lambda line: "- " + markdown_text(line), "latex": latex_note}.get(format, on_one_line)
    cells = [cell for part in parts for column in part.values for cell in column.cells]
    lines = notes(frame, at_chance=any(AT_CHANCE in cell for cell in cells))
    return "\n".join([*(draw(part) for part in parts), *(write(line) for line in lines)]).rstrip("\n")


def _method_columns(settings: pd.DataFrame) -> list[Column]:
    ratios = ["paper" if pd.isna(ratio) else f"{ratio:g}" for ratio in settings["ratio"].astype(float)]
    ratios = [ratio + MATCHED.get(match, "") for ratio, match in zip(ratios, settings["match"], strict=True)]
    columns = [plain("method", "", settings["method"], left=True), plain("ratio", "", ratios)]
    return columns + ([plain("variant", "", settings["variant"], left=True)] if settings["variant"].any() else [])


def _label_columns(settings: pd.DataFrame) -> list[Column]:
    return [
        plain("method", "", settings["method"], left=True),
        plain("setting", "", settings["label"], left=True),
    ]
