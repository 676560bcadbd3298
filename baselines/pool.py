"""Pool: average pooling of the patch grid before block 0. A control: no score, no text, no training.

The grid is cut into cells, each the plain mean of its patches: bands of rows, each of them into about as many columns,
so that any number of cells can be asked for; a quarter of an even grid is pooling by 2 x 2.
"""

from math import sqrt

import torch
from torch import Tensor

from harness.reduction import (
    Guide,
    MethodConfig,
    Ratio,
    Stack,
    StackShape,
    TokenReducer,
    TokenState,
    patch_grid,
)


class PoolConfig(MethodConfig):
    """keep: cells over patches; .25 pools by 2 x 2."""

    keep: Ratio = 0.25

    def bent(self, gamma: float) -> "PoolConfig":
        return self.model_copy(update={"keep": max(self.keep**gamma, 1e-9)})


class Pool(TokenReducer[PoolConfig]):
    """Before block 0 each cell's patches become one token, which stands for as many."""

    Config = PoolConfig

    def __init__(self, config: PoolConfig, shape: StackShape) -> None:
        super().__init__(config, shape)
        self.grid = patch_grid(shape, "pool")
        self.count = max(1, round(shape.patches * config.keep))

    def before_block(self, block: int, state: TokenState, stack: Stack, guide: Guide | None) -> TokenState:
        if block or self.count >= state.patches:
            return state
        cell = cells(self.grid, self.count, state.tokens.device)
        place = torch.arange(state.patches, device=cell.device)
        # A cell's first patch takes the others in.
        first = place.new_full((self.count,), state.patches).scatter_reduce(0, cell, place, "amin")[cell]
        order = torch.sort((place != first).to(torch.int8), stable=True).indices
        rest, source = order[: self.count], order[self.count :]
        batch = len(state.tokens)
        return state.merge(*(index.expand(batch, -1) for index in (source, first[source], rest)))


def cells(grid: tuple[int, int], count: int, device: torch.device | None = None) -> Tensor:
    """The cell (n0,) of each patch in raster order, of `count` cells as square as the grid allows."""
    rows, columns = grid
    bands = min(rows, count, max(1, round(sqrt(count * rows / columns)), -(-count // columns)))
    band = torch.arange(rows, device=device) * bands // rows
    begin, end = band * count // bands, (band + 1) * count // bands
    across = torch.arange(columns, device=device) * (end - begin).unsqueeze(1) // columns
    return (begin.unsqueeze(1) + across).flatten()
