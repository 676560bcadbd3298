"""The columns of the cost and throughput tables."""

from __future__ import annotations

import pandas as pd

from harness.report.layout import Column, plain
from harness.report.row import SIZED
from harness.report.settings import DENSE

UNIT_OF_TASK = "throughput_unit_"


def costs_by_size(board: pd.DataFrame) -> list[tuple[str, list[Column]]]:
    """The cost columns, under ''; where tasks' towers see different sizes, those of each under ' at 384 px (vqa)'."""
    tasks: dict[int, list[str]] = {}
    for name in board.columns:
        if name.startswith("cost_size_"):
            for size in board[name].dropna().unique():
                tasks.setdefault(int(size), []).append(name.removeprefix("cost_size_"))
    if len(tasks) < 2:
        return [("", _costs(board))]
    found = []
    for size, named in sorted(tasks.items()):
        sized = board.drop(columns=[name for name in board.columns if _fate(name)[1] not in {"", *named}])
        for name in SIZED:
            columns = [f"{name}_{task}" for task in named]
            sized[name] = board[columns].bfill(axis=1).iloc[:, 0]
        found.append((f" at {size} px ({', '.join(named)})", _costs(sized)))
    return found


def throughput(board: pd.DataFrame) -> list[Column]:
    """A column per task with samples per second, end to end and (of the model alone), and one with dense as 100 %:

    the dense passes made in turn with the row's where there are some, else those of dense's own row.
    """
    columns = []
    for name in sorted(name for name in board.columns if name.startswith(UNIT_OF_TASK)):
        if board[name].isna().all():
            continue
        task, unit = name.removeprefix(UNIT_OF_TASK), board[name].dropna().iloc[0]
        rates = board[[f"throughput_{task}", f"model_throughput_{task}"]].astype(float)
        columns.append(plain(f"{task}, {unit}/s", "(model alone)", _pairs(rates)))
        dense = rates[(board["method"] == DENSE) & rates.notna().all(axis=1)]
        if len(dense):
            ratios = board[[f"throughput_ratio_{task}", f"model_throughput_ratio_{task}"]].astype(float)
            ratios = ratios.set_axis(rates.columns, axis=1).fillna(rates / dense.iloc[0])
            columns.append(plain(task, "% of dense (model)", _pairs(100 * ratios)))
    return columns


def _pairs(rates: pd.DataFrame) -> list[str]:
    digits = [1 if rates[name].max() < 100 else 0 for name in rates]
    return [
        "-" if pd.isna(whole) else f"{whole:.{digits[0]}f} ({model:.{digits[1]}f})"
        for whole, model in rates.itertuples(index=False)
    ]


def _fate(name: str) -> tuple[str, str]:
    """('kept', 'vqa') of the column mentioned_kept_vqa; two empty strings of others."""
    if not name.startswith("mentioned_"):
        return "", ""
    fate, _, task = name.removeprefix("mentioned_").partition("_")
    return fate, task


def _costs(board: pd.DataFrame) -> list[Column]:
    def column(heading: str, unit: str, name: str, scale: float = 1.0, digits: int = 1) -> Column:
        values = [float("nan") if value is None else float(value) * scale for value in board[name]]
        return plain(heading, unit, ["-" if pd.isna(value) else f"{value:.{digits}f}" for value in values])

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
        fate, task = _fate(name)
        if fate and board[name].notna().any():
            columns.append(column(f"{fate}, {task}", "% mentioned", name, 100))
    return columns
