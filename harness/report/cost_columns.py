"""The columns of the cost and throughput tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.cost.quantities import COSTS, MENTIONED, extra_costs
from harness.report.frame import Frame
from harness.report.layout import Column, plain, shortest
from harness.train.quantities import TRAINED

DIGITS = {"train_mib_per_image": 2}


def costs_by_size(board: Frame) -> list[tuple[str, list[Column]]]:
    """The cost columns, under ''; where tasks' towers see different sizes, those of each under ' at 384 px (vqa)'."""
    if not board.sizes:
        return [("", _costs(board))]
    return [(f" at {size} px ({', '.join(tasks)})", _costs(board, tasks)) for size, tasks in board.sizes.items()]


def throughput(board: Frame) -> list[Column]:
    """A column per task with samples per second, end to end and (of the model alone), and one with dense as 100 %:

    the dense passes made in turn with the row's where there are some, else those of dense's own row.
    """
    measured, columns = board.values[board.values["quantity"] == "throughput"], []
    for task in sorted(measured["task"].unique()):
        rates = _both(board, task, "throughput")
        unit = measured.loc[measured["task"] == task, "unit"].iloc[0]
        columns.append(plain(f"{task}, {unit}", "(model alone)", _pairs(rates)))
        dense = rates[board.dense & rates.notna().all(axis=1)]
        if len(dense):
            ratios = _both(board, task, "throughput_ratio").fillna(rates / dense.iloc[0])
            said = spreads(board.column("throughput_ratio", [task]))
            columns.append(plain(task, "% of dense (model)", _pairs(100 * ratios, said)))
    return columns


def _both(board: Frame, task: str, name: str) -> pd.DataFrame:
    """A rate end to end and of the model alone, a column each."""
    names = {"whole": name, "model": f"model_{name}"}
    return pd.DataFrame({side: board.column(one, [task])["value"].astype(float) for side, one in names.items()})


def _pairs(rates: pd.DataFrame, spread: Sequence[str] = ()) -> list[str]:
    digits = [1 if rates[name].max() < 100 else 0 for name in rates]
    return [
        "-" if pd.isna(whole) else f"{whole:.{digits[0]}f}{said} ({model:.{digits[1]}f})"
        for (whole, model), said in zip(rates.itertuples(index=False), spread or [""] * len(rates), strict=True)
    ]


def beside_dense(board: Frame, tasks: Sequence[str] | None = None) -> list[str]:
    """Latency as a share of dense's with its quartiles; dense, which is timed beside itself, is 100."""
    rows = board.column("latency_ratio", tasks)
    texts = ["-" if pd.isna(value) else f"{100 * value:.1f}" for value in rows["value"]]
    return [
        "100.0" if dense and text != "-" else text + said
        for text, said, dense in zip(texts, spreads(rows), board.dense, strict=True)
    ]


def spreads(rows: pd.DataFrame) -> list[str]:
    """' [93.1, 96.0]' of each row's bounds in percent; '' where it has none."""
    return [
        "" if pd.isna(low) else f" [{shortest(100 * low)}, {shortest(100 * high)}]"
        for low, high in rows[["low", "high"]].itertuples(index=False)
    ]


def _costs(board: Frame, tasks: Sequence[str] | None = None) -> list[Column]:
    """The columns of a board's costs, those of some tasks where they differ in them."""
    extra = (*extra_costs().values(), *TRAINED)
    optional = {"latency_ratio", *(one.name for one in extra)}

    def column(name: str, chosen: Sequence[str] | None, heading: str = "") -> Column | None:
        quantity, values = board.quantity(name), board.column(name, chosen)["value"].astype(float)
        digits = DIGITS.get(name, 1)
        if quantity.unit == "GMACs" and not values.max() >= 10:
            digits = 4
        texts = ["-" if pd.isna(value) else f"{quantity.scale * value:.{digits}f}" for value in values]
        if name == "latency_ratio":
            texts = beside_dense(board, chosen)
        left_out = (name in optional or heading) and values.isna().all()
        return None if left_out else plain(heading or quantity.title, quantity.unit, texts)

    found = [column(cost.name, tasks) for cost in (*COSTS, *extra) if cost.headline]
    for task in sorted(board.values["task"].unique()) if tasks is None else tasks:
        found += [column(fate.name, [task], f"{fate.title}, {task}") for fate in MENTIONED]
    return [one for one in found if one is not None]
