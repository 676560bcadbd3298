"""The lines under a table: what has no value and why, and how to read what is in it."""

from __future__ import annotations

import json

from harness.report.chance import NOTE as NOTE_CHANCE
from harness.report.cost_columns import spreads
from harness.report.families import notes_of
from harness.report.frame import Frame
from harness.report.quality_columns import KEPT_ALL

SEVERAL_SEEDS = (
    "values of several seeds are means: sd is over the seeds, intervals resample seeds and then test items (without "
    "the samples of all seeds: the mean of the seeds' intervals over test items)"
)
BLIND = "blind: dense shown blank images, which scores by the text and the most frequent answers alone"
THROUGHPUT = "throughput: end to end, decoding of images included; in parentheses of the model alone"
IN_TURN = (
    "throughput, % of dense: where a pass is short, beside passes of dense made in turn with it, with the least and "
    "the largest of several"
)
LATENCY = "latency, % of dense: median over pairs of runs, with the quartiles where records have them"


def notes(frame: Frame, *, at_chance: bool) -> list[str]:
    """A line for each failure, method's fallback and list of several seeds, and for what the tables leave out.

    `at_chance`: whether a cell that is shown bears its mark.
    """
    lines = [f"no value: {line}" for line in frame.failures]
    lines += [f"{frame.quantity(metric).title} absent: {reason}" for metric, reason in frame.absent.items()]
    settings, quantities = frame.settings, set(frame.values["quantity"])
    kept_all = settings["setting"].isin(frame.values.loc[frame.values["unguided"].eq(True), "setting"])
    marks = settings.assign(mark=[f"{KEPT_ALL} " * one for one in kept_all])[["mark", "method", "fallback"]]
    without_text = marks[marks["fallback"].notna()].drop_duplicates()
    lines += [f"{mark}{method} where no text is given: {said}" for mark, method, said in without_text.to_numpy()]
    lines += _seeds(frame)
    lines += notes_of(frame.values)
    if at_chance:
        lines.append(NOTE_CHANCE)
    if frame.values["blind"].notna().any():
        lines.append(BLIND)
    if "throughput" in quantities:
        lines.append(THROUGHPUT)
    if "throughput_ratio" in quantities:
        lines.append(IN_TURN)
    if "latency_ratio" in quantities:
        lines += [LATENCY, *_unsteady(frame)]
    if frame.superseded:
        lines.append(f"{frame.superseded} record(s) of the same settings, older or of other code, are not shown")
    return lines + frame.mixed


def _unsteady(frame: Frame) -> list[str]:
    """A line where dense, timed beside itself, is off 1 by more than its spread: other ratios are off as much."""
    rows = frame.column("latency_ratio")[frame.dense]
    off = rows[(rows["low"] > 1) | (rows["high"] < 1)]
    return [
        f"latency of dense beside itself is {100 * value:.1f} %{said}, not 100: the machine was not steady, and other "
        "latencies may be off as much"
        for value, said in zip(off["value"], spreads(off), strict=True)
    ]


def _seeds(frame: Frame) -> list[str]:
    several = frame.settings[frame.settings["seeds"].map(len) > 1]
    methods: dict[tuple[str, ...], list[str]] = {}
    for method, seeds in several[["method", "seeds"]].itertuples(index=False):
        methods.setdefault(seeds, []).append(method)
    lines = [f"seeds {', '.join(seeds)}: {', '.join(dict.fromkeys(names))}" for seeds, names in methods.items()]
    once = frame.settings[frame.settings["seeds"].map(len) == 1]
    pairs = zip(once["method"].astype(str), once["config"].astype(str), strict=True)
    drawn = [method for method, config in pairs if "seed" in json.loads(config)]
    alone = [f"one sequence of random draws: {', '.join(dict.fromkeys(drawn))}; --seed 0,1,2 measures several"]
    return [*lines, *[SEVERAL_SEEDS] * bool(lines), *alone * bool(drawn)]
