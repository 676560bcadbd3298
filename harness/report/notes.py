"""The lines under a table: what has no value and why, and how to read what is in it."""

from __future__ import annotations

from harness.report.frame import Frame
from harness.report.quality_columns import KEPT_ALL

SEVERAL_SEEDS = "values of several seeds are means: sd is over the seeds, ± the mean of their intervals over test items"
BLIND = "blind: dense shown blank images, which scores by the text and the most frequent answers alone"
THROUGHPUT = "throughput: end to end, decoding of images included; in parentheses of the model alone"
IN_TURN = "throughput, % of dense: where a pass is short, beside passes of dense made in turn with it"


def notes(frame: Frame) -> list[str]:
    """A line for each failure, method's fallback and list of several seeds, and for what the tables leave out."""
    lines = [f"no value: {line}" for line in frame.failures]
    lines += [f"{frame.quantity(metric).title} absent: {reason}" for metric, reason in frame.absent.items()]
    settings, quantities = frame.settings, set(frame.values["quantity"])
    without_text = settings[settings["fallback"].notna()].drop_duplicates(["method", "fallback"])
    lines += [
        f"{KEPT_ALL} {method} where no text is given: {fallback}"
        for method, fallback in without_text[["method", "fallback"]].to_numpy()
    ]
    lines += _seeds(frame)
    if frame.values["blind"].notna().any():
        lines.append(BLIND)
    if "throughput" in quantities:
        lines.append(THROUGHPUT)
    if "throughput_ratio" in quantities:
        lines.append(IN_TURN)
    if frame.superseded:
        lines.append(f"{frame.superseded} older record(s) of the same settings are not shown")
    return lines


def _seeds(frame: Frame) -> list[str]:
    several = frame.settings[frame.settings["seeds"].map(len) > 1]
    methods: dict[tuple[str, ...], list[str]] = {}
    for method, seeds in several[["method", "seeds"]].itertuples(index=False):
        methods.setdefault(seeds, []).append(method)
    lines = [f"seeds {', '.join(seeds)}: {', '.join(dict.fromkeys(names))}" for seeds, names in methods.items()]
    return [*lines, SEVERAL_SEEDS] if lines else []
