"""Labels beside points, where they cover neither each other nor a point."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from harness.report.style import INK

FONT_SIZE = 7.5
# Points (1/72 inch) from the mark, tried from near to far, each in all directions.
DISTANCES = (7.0, 13.0, 20.0, 29.0, 40.0, 52.0)
DIRECTIONS = 16
LEADER_FROM = 12.0  # a label further away has a line to its mark
MARK = 4.0  # half of a mark's side


def place_labels(axes: Axes, words: Sequence[tuple[float, float, str]], points: NDArray[np.float64]) -> None:
    """Write each (x, y, text) beside its point in the axes, clear of all `points` (n, 2) and of labels before it.

    The figure must have been laid out: places are measured on it. A label that fits nowhere is written where it covers
    least.
    """
    figure = axes.figure
    per_point = figure.dpi / 72
    frame = axes.get_window_extent()
    marks_n2 = axes.transData.transform(points) if len(points) else np.empty((0, 2))
    taken: list[Bbox] = []
    for x, y, text in sorted(words, key=lambda one: -one[1]):
        mark = axes.transData.transform((x, y))
        measured = axes.text(0, 0, text, fontsize=FONT_SIZE)
        width, height = np.asarray(measured.get_window_extent().size) + per_point
        measured.remove()
        choices: list[tuple[int, float, int, float, Bbox]] = []
        for distance in DISTANCES:
            for step in range(DIRECTIONS):
                angle = pi / 4 + 2 * pi * step / DIRECTIONS
                shift = distance * per_point * np.array([cos(angle), sin(angle)])
                box = _box(mark + shift, width, height, cos(angle), sin(angle))
                choices.append((_covered(box, taken, marks_n2, frame, per_point), distance, len(choices), angle, box))
        _, distance, _, angle, box = min(choices, key=lambda one: one[:3])
        taken.append(box)
        far = distance > LEADER_FROM
        axes.annotate(
            text,
            (x, y),
            xytext=(distance * cos(angle), distance * sin(angle)),
            textcoords="offset points",
            ha=_side(cos(angle), "left", "right"),
            va=_side(sin(angle), "bottom", "top"),
            fontsize=FONT_SIZE,
            color=INK,
            zorder=20,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": INK, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3} if far else None,
        )


def _side(share: float, after: str, before: str) -> str:
    return "center" if abs(share) < 0.38 else after if share > 0 else before


def _box(corner: NDArray[np.float64], width: float, height: float, along: float, up: float) -> Bbox:
    """A label's box from where it is attached, in pixels."""
    starts = {"left": 0.0, "bottom": 0.0, "center": -0.5, "right": -1.0, "top": -1.0}
    left = corner[0] + width * starts[_side(along, "left", "right")]
    low = corner[1] + height * starts[_side(up, "bottom", "top")]
    return Bbox.from_bounds(left, low, width, height)


def _covered(box: Bbox, taken: Sequence[Bbox], marks_n2: NDArray[np.float64], frame: Bbox, per_point: float) -> int:
    """How much a box covers: labels count most, marks less; what leaves the axes counts as a label."""
    labels = sum(box.overlaps(other) for other in taken)
    outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
    near = MARK * per_point
    inside = (
        (marks_n2[:, 0] > box.x0 - near)
        & (marks_n2[:, 0] < box.x1 + near)
        & (marks_n2[:, 1] > box.y0 - near)
        & (marks_n2[:, 1] < box.y1 + near)
    )
    return 3 * (labels + outside) + int(inside.sum())
