"""A picture of which patches each method keeps, stage by stage, for a few scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from harness.kit.errors import HarnessError
from harness.report.style import INK, save, styled

DROPPED_LIGHT = 0.16
MERGED_TINT = np.array([0.20, 0.45, 0.85])
MENTIONED = "#FFD000"
SIDE = 1.2  # inches
NAMES, PER_LETTER = 0.72, 0.085  # inches: the least room for the names of methods, and what a letter takes
TITLE: dict[str, Any] = {
    "fontsize": 7.5,
    "fontweight": "normal",
    "loc": "left",
    "pad": 2.5,
    "linespacing": 1.15,
}


@dataclass(frozen=True)
class Stage:
    """What became of the n0 patches, row by row from the top left, after one stage.

    kept: (n0,) bool, the patch is a token of its own; merged: (n0,) bool, it lives in a token made of
    several. Never both; a patch that is neither was dropped.
    """

    label: str
    kept: NDArray[np.bool_]
    merged: NDArray[np.bool_]


@dataclass(frozen=True)
class PatchExample:
    """One scene. image: (H, W, 3) uint8; grid: (rows, columns) of patches, n0 = rows x columns.

    mentioned: indices of the patches that the caption speaks of. methods: name -> its stages in order;
    methods may differ in how many they have.
    """

    image: NDArray[np.uint8]
    caption: str
    grid: tuple[int, int]
    mentioned: Sequence[int]
    methods: Mapping[str, Sequence[Stage]]


def draw_patches(examples: Sequence[PatchExample], stem: Path | str) -> list[Path]:
    """Write stem.svg and stem.png: a block per scene, a row per method, columns input and stages.

    Dropped patches are dark and grey, merged ones tinted and hatched, mentioned ones outlined. Raises
    HarnessError for no examples, or for masks that do not fit the grid.
    """
    if not examples:
        raise HarnessError("no scenes to draw: expected at least one example")
    for example in examples:
        _check(example)
    columns = 1 + max(len(stages) for example in examples for stages in example.methods.values())
    longest = max(len(name) for example in examples for name in example.methods)
    names = max(NAMES, 0.1 + PER_LETTER * longest)
    width = names + 0.03 + SIDE * 1.04 * columns
    heights = [len(example.methods) * SIDE * 1.26 + 0.30 + 0.17 * len(_caption(example, width)) for example in examples]
    with styled():
        figure = Figure(figsize=(width, sum(heights) + 0.35))
        parts = figure.subfigures(len(examples) + 1, 1, height_ratios=[*heights, 0.35], squeeze=False)[:, 0]
        for part, example, height in zip(parts, examples, heights, strict=False):
            _draw_scene(part, example, columns, width, height, names)
        _legend(parts[-1])
        return save(figure, Path(stem))


def _check(example: PatchExample) -> None:
    rows, columns = example.grid
    shape = example.image.shape
    if len(shape) != 3 or shape[2] != 3 or shape[0] % rows or shape[1] % columns:
        raise HarnessError(f"image of shape {shape}: expected (H, W, 3), sides divisible by the grid {example.grid}")
    patches = rows * columns
    for name, stages in example.methods.items():
        for stage in stages:
            fits = stage.kept.shape == stage.merged.shape == (patches,)
            if not fits or (stage.kept & stage.merged).any():
                raise HarnessError(f"{name}, {stage.label}: expected masks of {patches} patches, never both true")


def _caption(example: PatchExample, width: float) -> list[str]:
    return wrap(f"“{example.caption}”", int(width * 13.5)) if example.caption else []


def _draw_scene(
    part: SubFigure, example: PatchExample, columns: int, width: float, height: float, names: float
) -> None:
    lines = _caption(example, width)
    part.text(
        0.08 / width,
        1 - 0.1 / height,
        "\n".join(lines),
        va="top",
        fontsize=9.5,
        fontweight="bold",
        linespacing=1.3,
        parse_math=False,
    )
    top = 1 - (0.40 + 0.17 * len(lines)) / height
    margins = {
        "left": names / width,
        "right": 0.995,
        "top": top,
        "bottom": 0.0,
        "wspace": 0.04,
        "hspace": 0.28,
    }
    grid = part.subplots(len(example.methods), columns, squeeze=False, gridspec_kw=margins)
    for row, (name, stages) in zip(grid, example.methods.items(), strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9.5, labelpad=6)
        _draw_patches(row[0], example, None)
        for axes, stage in zip(row[1:], stages, strict=False):
            _draw_patches(axes, example, stage)
            axes.set_title(_title(stage), **TITLE)
        for axes in row[1 + len(stages) :]:
            axes.set_axis_off()
    grid[0][0].set_title("input", **TITLE)


def _title(stage: Stage) -> str:
    merged = f" · {int(stage.merged.sum())} merged" if stage.merged.any() else ""
    return f"{stage.label}\n{int(stage.kept.sum())} kept{merged}"


def shaded(image: NDArray[np.uint8], grid: tuple[int, int], stage: Stage) -> NDArray[np.float64]:
    """The image (H, W, 3) in 0..1 with dropped patches dark and grey and merged ones tinted."""
    rows, columns = grid
    cell = (image.shape[0] // rows, image.shape[1] // columns)
    light = image.astype(np.float64) / 255
    kept, merged = (
        np.kron(mask.reshape(grid), np.ones(cell)).astype(bool)[..., None] for mask in (stage.kept, stage.merged)
    )
    gone = light.mean(axis=2, keepdims=True) * DROPPED_LIGHT
    return np.where(kept, light, np.where(merged, 0.5 * light + 0.5 * MERGED_TINT, gone))


def outline(chosen: NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """The edges, as ((x, y), (x, y)) in patch units, between chosen patches (rows, columns) and others."""
    padded = np.pad(chosen, 1)
    across = [[(x, y), (x + 1, y)] for y, x in np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])]
    down = [[(x, y), (x, y + 1)] for y, x in np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])]
    return [[(int(x), int(y)) for x, y in edge] for edge in across + down]


def _draw_patches(axes: Axes, example: PatchExample, stage: Stage | None) -> None:
    rows, columns = example.grid
    picture = example.image if stage is None else shaded(example.image, example.grid, stage)
    axes.imshow(picture, extent=(0, columns, rows, 0), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    if stage is not None and stage.merged.any():
        stripes = map(int, np.flatnonzero(stage.merged))
        cells = [Rectangle((i % columns, i // columns), 1, 1) for i in stripes]
        axes.add_collection(
            PatchCollection(cells, facecolor="none", edgecolor="white", hatch="////", linewidth=0, alpha=0.55)
        )
    mentioned = np.zeros(rows * columns, dtype=bool)
    mentioned[list(example.mentioned)] = True
    edges = outline(mentioned.reshape(example.grid))
    axes.add_collection(LineCollection(edges, colors="black", linewidths=2.6, capstyle="round"))
    axes.add_collection(LineCollection(edges, colors=MENTIONED, linewidths=1.4, capstyle="round"))
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)


def _legend(part: SubFigure) -> None:
    tint = tuple(float(value) for value in 0.5 + 0.5 * MERGED_TINT)
    handles = [
        Patch(facecolor=tint, edgecolor="white", hatch="////", label="merged into another token"),
        Patch(facecolor="#222222", edgecolor=INK, label="dropped"),
        Line2D([], [], color=MENTIONED, linewidth=2.5, label="mentioned in the text"),
    ]
    part.legend(handles=handles, loc="center left", ncols=3, fontsize=8.5, handlelength=1.6)
