"""Curves of pre-training: how each loss falls over the steps, a line per method and ratio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.kit.errors import HarnessError
from harness.report.figures import LINES
from harness.report.frame import Frame, boards, to_frame
from harness.report.lines import DOTS
from harness.report.settings import DENSE
from harness.report.style import INK, method_styles, save, styled
from harness.train.quantities import PRETRAINING

Record = Mapping[str, Any]
MARK_EVERY = 4


@dataclass(frozen=True)
class Curve:
    """A setting's line: its method and ratio, and of each seed steps (n,) and by name losses (n,)."""

    method: str
    ratio: float
    seeds: Sequence[Mapping[str, Any]]


def plot_curves(records: Iterable[Record], folder: Path | str, stem: str = "curves") -> list[Path]:
    """Draw <stem>.svg and .png for each board whose hosts were pre-trained, numbered from the second.

    A panel per loss, drawn from where it is trained; a line is the mean over seeds, its band reaches from the lowest to
    the highest. HarnessError where no record holds a curve, or when a file cannot be written.
    """
    known = list(records)
    by_key = {record["key"]: record for record in known}
    drawn = [(title, curves) for title, board in boards(to_frame(known)) if (curves := _curves(board, by_key))]
    if not drawn:
        raise HarnessError("nothing to draw: no record rests on a pre-training; `run --protocol pretrain` makes them")
    written: list[Path] = []
    for number, (title, curves) in enumerate(drawn, 1):
        with styled():
            written += save(_figure(curves, title), Path(folder) / (stem if number == 1 else f"{stem}-{number}"))
    return written


def _curves(board: Frame, records: Mapping[str, Record]) -> list[Curve]:
    """The curves of a board's settings, each pre-training once although several tasks rest on it."""
    found = []
    for row in board.settings.to_dict(orient="records"):
        seeds = {
            stage["folder"]: stage["curve"]
            for key in row["keys"]
            for stage in records[key].get("trained") or ()
            if stage["stage"] == PRETRAINING and (stage.get("curve") or {}).get("steps")
        }
        if seeds:
            found.append(Curve(row["method"], float(row["ratio"]), list(seeds.values())))
    return found


def _figure(curves: Sequence[Curve], title: str) -> Figure:
    losses = list(dict.fromkeys(name for curve in curves for seed in curve.seeds for name in seed["losses"]))
    figure = Figure(figsize=(3.6 * len(losses) + 0.3, 3.6), layout="constrained")
    styles = method_styles(sorted({curve.method for curve in curves} - {DENSE})) | {DENSE: {"color": INK}}
    ratios = sorted({curve.ratio for curve in curves if curve.method != DENSE}, reverse=True)
    handles: dict[str, Line2D] = {}
    for axes, name in zip(figure.subplots(1, len(losses), squeeze=False)[0], losses, strict=True):
        for curve in curves:
            seeds = [seed["losses"][name] for seed in curve.seeds if name in seed["losses"]]
            if not seeds:
                continue
            dense = curve.method == DENSE
            label = DENSE if dense else f"{curve.method} {curve.ratio:g}"
            dashes = LINES[0] if dense else LINES[ratios.index(curve.ratio) % len(LINES)]
            look = {**styles[curve.method], **DOTS, "markevery": MARK_EVERY, "linestyle": dashes, "label": label}
            # Nothing is drawn where a loss was not trained yet.
            steps, values = curve.seeds[0]["steps"], np.ma.masked_invalid(np.array(seeds, dtype=np.float64))
            (handles[label],) = axes.plot(steps, values.mean(0), linewidth=2.0 if dense else 1.4, **look)
            axes.fill_between(steps, values.min(0), values.max(0), color=look["color"], alpha=0.10, linewidth=0)
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel("step")
    figure.axes[0].set_ylabel("loss")
    figure.legend(handles=list(handles.values()), loc="outside lower left", ncols=min(7, len(handles)), fontsize=9)
    figure.suptitle(title, x=0.005, ha="left", fontsize=10, fontweight="bold", parse_math=False)
    return figure
