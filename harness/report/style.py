"""How every figure looks and is written: a colour and marker per method, SVG and PNG with the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import seaborn
from matplotlib.figure import Figure

from harness.kit.files import explained, replace_all
from harness.kit.registry import methods
from harness.report.settings import DENSE

INK = "#333333"
PNG_DPI = 160
# The colours of Okabe and Ito (2008), told apart with every common colour vision; the most distant first.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8B5A2B", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
SETTINGS: dict[str, Any] = {
    "svg.hashsalt": "vlm-token-harness",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "hatch.linewidth": 0.9,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def styled() -> Iterator[None]:
    """The look of all figures, for the block; the user's own matplotlib settings come back after it."""
    with seaborn.axes_style("ticks"), matplotlib.rc_context(SETTINGS):
        yield


def method_styles(shown: list[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each method, the same in every figure: by its place among all registered methods.

    Dense is the reference and drawn in ink. Methods that are no longer registered come after the others.
    """
    known = [name for name in methods.names() if name != DENSE]
    known += sorted(name for name in shown if name not in known and name != DENSE)
    found = {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]} for i, name in enumerate(known)
    }
    found[DENSE] = {"color": INK, "marker": "_"}
    return {name: found[name] for name in shown}


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write stem.svg and stem.png without dates, both or neither, within `styled`; HarnessError when that fails."""
    drawn: dict[Path, bytes] = {}
    for ending, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=ending, dpi=PNG_DPI, metadata=metadata)
        drawn[stem.with_name(f"{stem.name}.{ending}")] = buffer.getvalue()
    with explained(f"figure {stem}: cannot be written", "free space or choose another --out"):
        stem.parent.mkdir(parents=True, exist_ok=True)
        replace_all(drawn)
    return list(drawn)
