"""Tables of a frame as text (at most 110 columns), CSV, Markdown and LaTeX.

Percent with one decimal; ± is the farther end of the 95 % interval. Costs and quality stand in parts below
each other, so that a part fits a screen or a page. CSV has every column and the exact numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.registry import unknown
from harness.render.frame import DENSE, boards, headline_metrics, metrics_of, study_frame, title_of
from harness.render.layout import Column, Part, latex, markdown, text

FORMATS = ("text", "csv", "md", "latex")


def render_table(frame: pd.DataFrame, format: str = "text", metrics: Sequence[str] | None = None) -> str:
    """The frame as a table, without a newline at its end; `metrics` instead of the headline ones.

    Raises HarnessError for an unknown format or metric.
    """
    return _render(frame, format, metrics, _method_columns)


def render_study_table(
    records: Iterable[Mapping[str, Any]],
    labels: Sequence[Mapping[str, Any]],
    format: str = "text",
    metrics: Sequence[str] | None = None,
) -> str:
    """A study's records as a table whose rows are named, and ordered, by its labels (see `study_frame`)."""
    return _render(study_frame(records, labels), format, metrics, _label_columns)


def _render(
    frame: pd.DataFrame,
    format: str,
    metrics: Sequence[str] | None,
    name: Callable[[pd.DataFrame], list[Column]],
) -> str:
    if format not in FORMATS:
        raise unknown("table format", format, FORMATS)
    if format == "csv":
        return _csv(frame)
    for metric in metrics or ():
        if metric not in metrics_of(frame):
            raise unknown("metric", metric, metrics_of(frame))
    parts = []
    for title, board in boards(frame):
        names = name(board)
        chosen = headline_metrics(board) if metrics is None else list(metrics)
        parts.append(Part(f"Quality · {title}", names, [_quality(board, metric) for metric in chosen]))
        parts.append(Part(f"Cost of the vision tower per image · {title}", names, _costs(board)))
    draw = {"text": text, "md": markdown, "latex": latex}[format]
    notes = _notes(frame, format)
    return "\n".join([*(draw(part) for part in parts), *notes]).rstrip("\n")


def _csv(frame: pd.DataFrame) -> str:
    flat = frame.copy()
    for name in ("keys", "tokens_per_block", "tokens_per_mlp"):
        flat[name] = [" ".join(map(str, values)) for values in flat[name]]
    return str(flat.to_csv(index=False, lineterminator="\n")).rstrip("\n")


def _method_columns(board: pd.DataFrame) -> list[Column]:
    ratios = ["paper" if pd.isna(ratio) else f"{ratio:g}" for ratio in board["ratio"].astype(float)]
    ratios = [ratio + (" MACs" if match == "macs" else "") for ratio, match in zip(ratios, board["match"], strict=True)]
    columns = [_plain("method", "", board["method"], left=True), _plain("ratio", "", ratios)]
    return columns + ([_plain("variant", "", board["variant"], left=True)] if board["variant"].any() else [])


def _label_columns(board: pd.DataFrame) -> list[Column]:
    return [
        _plain("method", "", board["method"], left=True),
        _plain("setting", "", board["label"], left=True),
    ]


def _plain(heading: str, unit: str, cells: Iterable[Any], left: bool = False) -> Column:
    texts = [str(cell) for cell in cells]
    return Column(heading, unit, texts, [False] * len(texts), left)


def _costs(board: pd.DataFrame) -> list[Column]:
    def column(heading: str, unit: str, name: str, scale: float = 1.0, digits: int = 1) -> Column:
        values = [float("nan") if value is None else float(value) * scale for value in board[name]]
        return _plain(heading, unit, ["-" if pd.isna(value) else f"{value:.{digits}f}" for value in values])

    digits = 1 if board["forward_gmacs"].astype(float).max() >= 10 else 4
    columns = [
        column("tokens", "% of n0", "token_ratio", 100),
        column("forward", "GMACs", "forward_gmacs", 1, digits),
        column("forward", "% of dense", "gmacs_ratio", 100),
        column("scoring", "% of forward", "scoring_share", 100),
        column("train step", "% of dense", "train_step_ratio", 100),
        column("memory", "MiB", "train_mib_per_image", 1, 2),
    ]
    if board["latency_ratio"].notna().any():
        columns.append(column("latency", "% of dense", "latency_ratio", 100))
    for name in board.columns:
        if name.startswith("mentioned_") and board[name].notna().any():
            fate, _, task = name.removeprefix("mentioned_").partition("_")
            columns.append(column(f"{fate}, {task}", "% mentioned", name, 100))
    return columns


def _quality(board: pd.DataFrame, metric: str) -> Column:
    texts = [_value(row, metric) for _, row in board.iterrows()]
    width = max((len(value) for value, _ in texts), default=0)
    cells = [f"{value:>{width}} {delta}" if delta else value for value, delta in texts]
    return Column(title_of(metric), "% (Δ dense)", cells, _best(board, metric))


def _value(row: pd.Series, metric: str) -> tuple[str, str]:
    """'93.1 ±1.2' and '(-2.0 ±0.8)', or why there is none."""
    if row[f"{metric}__error"]:
        return row[f"{metric}__error"], ""
    spread = max(row[metric] - row[f"{metric}__low"], row[f"{metric}__high"] - row[metric])
    value = f"{100 * row[metric]:.1f}" + ("" if pd.isna(spread) else f" ±{100 * spread:.1f}")
    delta, low, high = (row[f"{metric}__delta{end}"] for end in ("", "_low", "_high"))
    if pd.isna(delta):
        return value, ""
    wide = "" if pd.isna(low) else f" ±{100 * max(delta - low, high - delta):.1f}"
    return value, f"({round(100 * delta, 1) + 0.0:+.1f}{wide})"


def _best(board: pd.DataFrame, metric: str) -> list[bool]:
    """True for the best of the reduced methods at one ratio, where there are several to compare."""
    reduced = board[(board["method"] != DENSE) & board[metric].notna()]
    groups = reduced.groupby("ratio", dropna=False)[metric]
    best = (groups.transform("max") == reduced[metric]) & (groups.transform("size") > 1)
    return [bool(best.get(index, False)) for index in board.index]


def _notes(frame: pd.DataFrame, format: str) -> list[str]:
    lines = [f"no value: {line}" for line in frame.attrs.get("failures", [])]
    without_text = frame[frame["fallback"].notna()].drop_duplicates(["method", "fallback"])
    lines += [
        f"{method} where no text is given: {fallback}"
        for method, fallback in without_text[["method", "fallback"]].to_numpy()
    ]
    if hidden := frame.attrs.get("superseded"):
        lines.append(f"{hidden} older record(s) of the same settings are not shown")
    return [{"md": "- " + line, "latex": "% " + line}.get(format, line) for line in lines]
