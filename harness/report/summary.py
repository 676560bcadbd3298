"""The summary of a board: a row a setting, with what it keeps of dense's quality and what it costs beside dense."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

import pandas as pd

from harness.report.cost_columns import beside_dense, spreads
from harness.report.frame import Frame, boards
from harness.report.layout import Column, plain, shortest

# What it costs, as a share of dense's own.
SHARES = (
    ("forward", "gmacs_ratio"),
    ("train step", "train_step_ratio"),
    ("memory", "train_mib_per_image"),
    ("latency", "latency_ratio"),
)


def summary(board: Frame) -> list[Column]:
    """Quality as a share of dense's, the mean over tasks with its interval, the task that loses most, and costs as
    shares, each with its spread where it has one.

    A task's share is the mean over its headline metrics, the same for all methods of a board: those for which one of
    them kept all its tokens are left out for all, and those in which dense is at chance.
    """
    shares, low, high = quality_shares(board)
    columns = [plain("quality kept", "[95 %]", [_kept(*three) for three in _rows(shares, low, high)])]
    if len(shares.columns) > 1:
        columns.append(plain("worst task", "", [_worst(*row) for row in _beside(shares, board)]))
    tokens = board.column("token_ratio")
    texts = [text + said for text, said in zip(_percent(tokens["value"].astype(float)), spreads(tokens), strict=True)]
    columns.append(plain("tokens", "of n0", texts))
    for title, name in SHARES:
        values = board.column(name)["value"].astype(float)
        if name == "train_mib_per_image":
            values = values / values[board.dense].iloc[0] if board.dense.any() else values * float("nan")
        if values.notna().any():
            texts = beside_dense(board) if name == "latency_ratio" else _percent(values)
            columns.append(plain(title, "[quartiles]" if any("[" in text for text in texts) else "", texts))
    return columns


def quality_shares(board: Frame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Share of dense's quality, and the ends of its 95 % interval: a row a setting and a column a task; NaN where there
    is none to compare with.

    The interval is that of the paired difference to dense, of shares that cannot be below none. A task's ends are the
    means of its metrics': as wide as if all of them erred together, since they are of the same images.
    """
    by_task: dict[str, list[pd.DataFrame]] = {}
    metrics = _metrics(board)
    for metric in [one for one in metrics if not metrics[one].any()] or metrics:
        rows, kept_all = board.column(metric), metrics[metric]
        dense = rows["value"][board.dense]
        deltas = {side: rows[f"delta_{side}"].astype(float) for side in ("low", "high")}
        ends = {side: (1 + delta / dense.iloc[0]).clip(lower=0) for side, delta in deltas.items()}
        found = pd.DataFrame({"value": rows["value"] / dense.iloc[0], **ends}).mask(kept_all, axis=0)
        by_task.setdefault(board.metrics[metric], []).append(found)
    index = board.settings.index

    def means(side: str) -> pd.DataFrame:
        tasks = {task: pd.concat([one[side] for one in found], axis=1).mean(axis=1) for task, found in by_task.items()}
        return pd.DataFrame(tasks, index=index)

    return means("value"), means("low"), means("high")


def _metrics(board: Frame) -> dict[str, pd.Series]:
    """By headline metric that dense has a value above chance in: which settings kept all tokens there."""
    found = {}
    for metric in board.headline():
        rows = board.column(metric)
        dense = rows["value"][board.dense]
        if len(dense) and not pd.isna(dense.iloc[0]) and dense.iloc[0] and not rows["at_chance"][board.dense].any():
            found[metric] = rows["unguided"] & ~board.dense
    return found


def _left_out(board: Frame) -> str | None:
    """The line about metrics that are left out of all rows because some method kept all its tokens there."""
    metrics = _metrics(board)
    masked = [metric for metric, kept_all in metrics.items() if kept_all.any()]
    if not masked:
        return None
    whose = ", ".join(sorted({name for metric in masked for name in board.settings["method"][metrics[metric]]}))
    if len(masked) == len(metrics):
        return f"quality of {whose}: none, as all images were seen without a text, and with all tokens"
    titles = ", ".join(f"{board.quantity(metric).title} ({board.metrics[metric]})" for metric in masked)
    return f"quality leaves out, for all methods, metrics for which {whose} saw no text and kept all tokens: {titles}"


def summary_notes(frame: Frame) -> list[str]:
    """What the brackets of a summary are of, where the headings do not say all of it, and what is not averaged."""
    lines = list(dict.fromkeys(line for _, board in boards(frame) if (line := _left_out(board))))
    if (frame.settings["seeds"].map(len) > 1).any():
        lines.append("several seeds: the interval of quality resamples seeds, then images")
    if frame.column("token_ratio")["low"].notna().any():
        lines.append("tokens of adaptive methods: in brackets the 5 and 95 % of images")
    return lines + frame.mixed


def _rows(*frames: pd.DataFrame) -> Iterator[tuple[list[float], ...]]:
    """Of each setting: the values of each frame, without those that are missing."""
    for row in range(len(frames[0])):
        yield tuple(list(frame.iloc[row].dropna()) for frame in frames)


def _beside(shares: pd.DataFrame, board: Frame) -> Iterator[tuple[pd.Series, bool]]:
    for (_, row), is_dense in zip(shares.iterrows(), board.dense, strict=True):
        yield row.dropna(), bool(is_dense)


def _kept(shares: list[float], low: list[float], high: list[float]) -> str:
    """'82.1 [80.5, 83.9]': the mean over tasks, its ends the means of theirs; without these where one has none."""
    if not shares:
        return "-"
    text = f"{100 * fmean(shares):.1f}"
    if len(low) != len(shares) or len(high) != len(shares):
        return text
    return f"{text} [{shortest(100 * fmean(low))}, {shortest(100 * fmean(high))}]"


def _worst(shares: pd.Series, is_dense: bool) -> str:
    """'40.3 retrieval': the task of which least is left."""
    return "-" if shares.empty or is_dense else f"{100 * shares.min():.1f} {shares.idxmin()}"


def _percent(values: pd.Series) -> list[str]:
    return ["-" if pd.isna(value) else f"{100 * value:.1f}" for value in values]
