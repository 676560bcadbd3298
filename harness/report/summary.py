"""The summary of a board: a row a setting, with what it keeps of dense's quality and what it costs beside dense."""

from __future__ import annotations

import pandas as pd

from harness.report.cost_columns import beside_dense
from harness.report.frame import Frame
from harness.report.layout import Column, plain

# What it costs, as a share of dense's own.
SHARES = (
    ("forward", "gmacs_ratio"),
    ("train step", "train_step_ratio"),
    ("memory", "train_mib_per_image"),
    ("latency", "latency_ratio"),
)


def summary(board: Frame) -> list[Column]:
    """Quality as a share of dense's, the mean over tasks with the least and the most of them, and costs as shares.

    A task's share is the mean over its headline metrics; those for which a method kept all tokens are left out.
    """
    shares = quality_shares(board)
    cells = [_share(list(row.dropna())) for _, row in shares.iterrows()]
    columns = [plain("quality kept", "% of dense (over tasks)", cells)]
    columns.append(plain("tokens", "% of n0", _percent(board.column("token_ratio")["value"].astype(float))))
    for title, name in SHARES:
        values = board.column(name)["value"].astype(float)
        if name == "train_mib_per_image":
            values = values / values[board.dense].iloc[0] if board.dense.any() else values * float("nan")
        if values.notna().any():
            texts = beside_dense(board) if name == "latency_ratio" else _percent(values)
            columns.append(plain(title, "% of dense", texts))
    return columns


def quality_shares(board: Frame) -> pd.DataFrame:
    """Share of dense's quality, a row a setting and a column a task; NaN where there is none to compare with."""
    by_task: dict[str, list[pd.Series]] = {}
    for metric in board.headline():
        rows = board.column(metric)
        dense = rows["value"][board.dense]
        if not len(dense) or pd.isna(dense.iloc[0]) or not dense.iloc[0]:
            continue
        kept_all = rows["unguided"] & ~board.dense
        by_task.setdefault(board.metrics[metric], []).append((rows["value"] / dense.iloc[0]).where(~kept_all))
    means = {task: pd.concat(columns, axis=1).mean(axis=1) for task, columns in by_task.items()}
    return pd.DataFrame(means, index=board.settings.index)


def _share(shares: list[float]) -> str:
    """'82.1 (40.3 - 100.0)', or the one share there is."""
    if not shares:
        return "-"
    mean = f"{100 * sum(shares) / len(shares):.1f}"
    return mean if len(shares) == 1 else f"{mean} ({100 * min(shares):.1f} - {100 * max(shares):.1f})"


def _percent(values: pd.Series) -> list[str]:
    return ["-" if pd.isna(value) else f"{100 * value:.1f}" for value in values]
