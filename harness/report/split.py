"""Quality by difficulty: of the samples that a control gets wrong at the same budget, and of those it gets right.

A method that is no better than smaller images shows it here: what it adds has to be among the samples that these lose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from statistics import fmean
from typing import Any

import pandas as pd

from harness.kit.errors import HarnessError
from harness.kit.registry import unknown
from harness.kit.shown import csv_cell, markdown_text, on_one_line
from harness.metrics.stats import summarise
from harness.report.frame import Frame, boards, to_frame
from harness.report.layout import Column, Part, latex, latex_note, markdown, plain, text
from harness.report.settings import DENSE

Record = Mapping[str, Any]
SIDES = ("wrong", "right")
# A sample's value from which on it counts as right: VQA's accuracy has values between.
RIGHT = 0.5
# Of a metric's samples that are 0 or 1, the share below which it says nothing of right and wrong (ROUGE-L, CIDEr).
DECIDED = 0.5
# Shares of dense's forward MACs that differ by no more than this are the same budget.
SAME_MACS = 0.05
MATCHED = {"macs": " MACs", "train-macs": " train MACs"}


@dataclass(frozen=True)
class Half:
    """What a setting scores on the samples of one side; bounds are the 95 % interval, n their number."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Row:
    """A setting beside the control at its budget: (metric, side) -> what it scores there."""

    budget: str
    method: str
    halves: Mapping[tuple[str, str], Half]


def render_split(
    records: Sequence[Record],
    samples: Callable[[Record], pd.DataFrame],
    control: str,
    folder: str,
    format: str = "text",
) -> str:
    """The table of `table --split CONTROL`, without a newline at its end; `samples`: those of a record.

    Raises HarnessError for an unknown format, and where no budget has a record of the control; budgets without one are
    left out, each with the command that makes it.
    """
    writers = {
        "text": (text, on_one_line),
        "md": (markdown, _bullet),
        "latex": (latex, latex_note),
        "csv": (None, None),
    }
    if format not in writers:
        raise unknown("table format", format, writers)
    by_key = {record["key"]: record for record in records}
    found = [
        (title, board, *_rows(board, by_key, samples, control, folder)) for title, board in boards(to_frame(records))
    ]
    missing = [line for *_, lines in found for line in lines]
    if not any(rows for _, _, rows, _ in found):
        raise HarnessError(missing[0] if missing else f"no method to split: {control} alone is measured in {folder}")
    if format == "csv":
        return _csv(found)
    draw, write = writers[format]
    assert draw is not None
    assert write is not None
    parts = [draw(_part(title, board, rows, control)) for title, board, rows, _ in found if rows]
    note = (
        f"wrong, right: samples that {control} gets wrong and right at the same ratio (at the nearest MACs where "
        "none is asked for), in parentheses how many; a metric without right and wrong samples is left out"
    )
    return "\n".join([*parts, *map(write, [note, *missing])]).rstrip("\n")


def _bullet(line: str) -> str:
    return "- " + markdown_text(line)


def _rows(
    board: Frame,
    by_key: Mapping[str, Record],
    samples: Callable[[Record], pd.DataFrame],
    control: str,
    folder: str,
) -> tuple[list[Row], list[str]]:
    """A row per setting and budget, dense at each, and a line for each budget that has no record of the control."""
    settings, rows, missing = board.settings, [], []
    shares = board.column("gmacs_ratio")["value"].astype(float)
    dense = settings[board.dense]
    groups = settings[~board.dense].groupby(["ratio", "match"], dropna=False, sort=False)
    for index in groups.groups.values():
        group = settings.loc[index]
        ratio, match = float(group["ratio"].astype(float).iloc[0]), str(group["match"].iloc[0])
        beside = _beside(settings, shares, group, control)
        if beside is None:
            missing.append(_command(group.iloc[0], by_key, control, folder, ratio, match, shares[index]))
            continue
        reference = {task: samples(record) for task, record in _by_task(beside, by_key).items()}
        budget = ("paper" if pd.isna(ratio) else f"{ratio:g}") + MATCHED.get(match, "")
        for _, setting in pd.concat([dense, group]).iterrows():
            name = f"{setting['method']} {setting['variant'] if setting['method'] != DENSE else ''}".strip()
            seeds = [by_key[key] for key in setting["keys"] if by_key[key]["status"] == "done"]
            rows.append(Row(budget, name, _halves(seeds, samples, reference)))
    return rows, missing


def _beside(settings: pd.DataFrame, shares: pd.Series, group: pd.DataFrame, control: str) -> pd.Series | None:
    """The control's setting at a group's budget: the same ratio, or without one the nearest in MACs."""
    done = settings[(settings["method"] == control) & (settings["status"] == "done")]
    first = group.iloc[0]
    if not pd.isna(first["ratio"]):
        done = done[(done["ratio"] == first["ratio"]) & (done["match"] == first["match"])]
        return None if done.empty else done.iloc[0]
    distance = (shares[done.index] - shares[group.index].mean()).abs().dropna()
    return done.loc[[distance.idxmin()]].iloc[0] if len(distance) and distance.min() <= SAME_MACS else None


def _by_task(setting: pd.Series, by_key: Mapping[str, Record]) -> dict[str, Record]:
    """Task -> the record of a setting, of its first seed."""
    found: dict[str, Record] = {}
    for key in setting["keys"]:
        found.setdefault(by_key[key]["spec"]["task"], by_key[key])
    return found


def _halves(
    records: Sequence[Record], samples: Callable[[Record], pd.DataFrame], reference: Mapping[str, pd.DataFrame]
) -> dict[tuple[str, str], Half]:
    """(metric, side) -> a setting's score there; of several seeds the means."""
    found: dict[tuple[str, str], list[Half]] = {}
    for record in records:
        if record["spec"]["task"] in reference:
            for name, half in _of_record(samples(record), reference[record["spec"]["task"]]):
                found.setdefault(name, []).append(half)
    return {
        name: Half(
            fmean(one.value for one in halves),
            fmean(one.low for one in halves),
            fmean(one.high for one in halves),
            halves[0].n,
        )
        for name, halves in found.items()
    }


def _of_record(here: pd.DataFrame, control: pd.DataFrame) -> Iterator[tuple[tuple[str, str], Half]]:
    for metric, rows in here.groupby("metric", sort=False):
        beside = control[control["metric"] == metric].set_index("sample")["value"].astype(float)
        if not beside.isin([0.0, 1.0]).mean() >= DECIDED:
            continue
        if set(beside.index) != set(rows["sample"]):
            raise HarnessError(f"metric {metric}: samples differ from the control's; run both with the same --limit")
        right = beside.loc[rows["sample"]].to_numpy() >= RIGHT
        for side, chosen in zip(SIDES, (rows[~right], rows[right]), strict=True):
            if len(chosen):
                made = summarise(chosen["value"].to_numpy(dtype=float), chosen["cluster"].to_numpy())
                low, high = made["ci95"]
                yield (str(metric), side), Half(made["value"], low, high, made["n"])


def _part(title: str, board: Frame, rows: Sequence[Row], control: str) -> Part:
    names = [
        plain("ratio", "", [row.budget for row in rows]),
        plain("method", "", [row.method for row in rows], left=True),
    ]
    metrics = [
        metric for metric in board.headline() if any((metric, side) in row.halves for row in rows for side in SIDES)
    ]
    columns = [_column(board, rows, metric, side) for metric in metrics for side in SIDES]
    return Part(f"Quality by what {control} gets wrong and right · {title}", names, columns)


def _column(board: Frame, rows: Sequence[Row], metric: str, side: str) -> Column:
    quantity = board.quantity(metric)
    cells = []
    for row in rows:
        half = row.halves.get((metric, side))
        if half is None:
            cells.append("-")
            continue
        wide = max(half.value - half.low, half.high - half.value)
        cells.append(f"{quantity.scale * half.value:.1f} ±{quantity.scale * wide:.1f} ({half.n})")
    return plain(quantity.title, f"{board.metrics[metric]}, {side}, {quantity.unit}", cells)


def _csv(found: Sequence[tuple[str, Frame, Sequence[Row], Sequence[str]]]) -> str:
    rows = [
        {"board": title, "ratio": row.budget, "method": row.method, "task": board.metrics[metric], "metric": metric}
        | {"side": side, "value": half.value, "low": half.low, "high": half.high, "n": half.n}
        for title, board, rows, _ in found
        for row in rows
        for (metric, side), half in row.halves.items()
    ]
    return str(pd.DataFrame(rows).map(csv_cell).to_csv(index=False, lineterminator="\n")).rstrip("\n")


def _command(
    setting: pd.Series,
    by_key: Mapping[str, Record],
    control: str,
    folder: str,
    ratio: float,
    match: str,
    shares: pd.Series,
) -> str:
    """The line that says which command measures the control at a budget."""
    specs = [by_key[key]["spec"] for key in setting["keys"]]
    spec, tasks = specs[0], ",".join(dict.fromkeys(one["task"] for one in specs))
    if pd.isna(ratio):  # a paper's own setting has its MACs alone to be met
        ratio, match = round(min(1.0, float(shares.mean())), 2), "macs"
    options = {"--ratios": f"{ratio:g}", "--model": spec["model"], "--tasks": tasks, "--data": spec["data"]}
    options |= {"--match": match} if match != "tokens" else {}
    options |= {"--protocol": spec["protocol"]} if spec["protocol"] != "inference" else {}
    options |= {"--split": spec["split"]} if spec["split"] else {}
    options |= {"--limit": spec["limit"]} if spec["limit"] else {}
    words = " ".join(f"{flag} {quote(str(value))}" for flag, value in (options | {"--out": folder}).items())
    return f"{control} is not measured at ratio {ratio:g}: python -m harness run --method {control} {words}"
