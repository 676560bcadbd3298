"""Images opened at fewer patches than a tower was built for: which grid, the resized images, and where patches live.

Shapes: B images of C channels; R x S patches of a grid, n0 = R S.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.kit.errors import HarnessError
from harness.reduction.stack import StackShape

Grid = tuple[int, int]
# How much longer one side of a resized image may become against the other.
MAX_STRETCH = 1.5


def patch_grid(shape: StackShape, method: str) -> Grid:
    """Rows and columns of a tower's patches; HarnessError where they form no grid."""
    if shape.grid is None or shape.grid[0] * shape.grid[1] != shape.patches:
        raise HarnessError(f"method {method} needs a grid of patches, which {shape.name} has not: use another tower")
    return shape.grid


def smaller_grid(full: Grid, keep: float) -> Grid:
    """Rows and columns whose product is nearest to keep n0, of those the one that stretches the image least."""
    rows, columns = full

    def stretch(grid: Grid) -> float:
        ratio = (grid[0] * columns) / (grid[1] * rows)
        return max(ratio, 1 / ratio)

    every = [(row, column) for row in range(1, rows + 1) for column in range(1, columns + 1)]
    good = [grid for grid in every if stretch(grid) <= MAX_STRETCH] or every
    return min(good, key=lambda grid: (abs(grid[0] * grid[1] - keep * rows * columns), stretch(grid), grid))


def resized_to(images: Tensor, full: Grid, grid: Grid) -> Tensor | None:
    """Images (B, C, H, W) of `full` patches at the size of `grid` patches, bicubic and antialiased; None: no change."""
    if grid == full:
        return None
    size = [side // patches * own for side, patches, own in zip(images.shape[-2:], full, grid)]
    # The antialiased kernel knows no half precision on a CPU.
    wide = images if images.dtype in (torch.float32, torch.float64) else images.float()
    return F.interpolate(wide, size=size, mode="bicubic", antialias=True).to(images.dtype)


def patches_in(full: Grid, grid: Grid, device: torch.device) -> Tensor:
    """For each patch of `full` (n0,), in raster order, the patch of `grid` in which its centre lies."""
    row, column = (
        ((torch.arange(patches, device=device) + 0.5) * own / patches).long() for patches, own in zip(full, grid)
    )
    return (row.unsqueeze(1) * grid[1] + column).flatten()
