"""The lines under a table: what has no value and why, and how to read what is in it."""

from __future__ import annotations

import pandas as pd

from harness.report.metric_names import metrics_of, title_of

SEVERAL_SEEDS = "values of several seeds are means: sd is over the seeds, ± the mean of their intervals over test items"
BLIND = "blind: dense shown blank images, which scores by the text and the most frequent answers alone"
THROUGHPUT = "throughput: end to end, decoding of images included; in parentheses of the model alone"
IN_TURN = "throughput, % of dense: where a pass is short, beside passes of dense made in turn with it"


def notes(frame: pd.DataFrame) -> list[str]:
    """A line for each failure, method's fallback and list of several seeds, and for what the tables leave out."""
    lines = [f"no value: {line}" for line in frame.attrs.get("failures", [])]
    lines += [f"{title_of(metric)} absent: {reason}" for metric, reason in frame.attrs.get("absent", {}).items()]
    without_text = frame[frame["fallback"].notna()].drop_duplicates(["method", "fallback"])
    lines += [
        f"{method} where no text is given: {fallback}"
        for method, fallback in without_text[["method", "fallback"]].to_numpy()
    ]
    lines += _seeds(frame)
    if any(frame[f"{metric}__blind"].notna().any() for metric in metrics_of(frame)):
        lines.append(BLIND)
    if any(name.startswith("throughput_unit_") for name in frame.columns):
        lines.append(THROUGHPUT)
    ratios = [name for name in frame.columns if name.startswith("throughput_ratio_")]
    if frame[ratios].notna().any(axis=None):
        lines.append(IN_TURN)
    if hidden := frame.attrs.get("superseded"):
        lines.append(f"{hidden} older record(s) of the same settings are not shown")
    return lines


def _seeds(frame: pd.DataFrame) -> list[str]:
    several = frame[frame["seeds"].map(len) > 1]
    methods: dict[tuple[str, ...], list[str]] = {}
    for method, seeds in several[["method", "seeds"]].itertuples(index=False):
        methods.setdefault(seeds, []).append(method)
    lines = [f"seeds {', '.join(seeds)}: {', '.join(dict.fromkeys(names))}" for seeds, names in methods.items()]
    return [*lines, SEVERAL_SEEDS] if lines else []
