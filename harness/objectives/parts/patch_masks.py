"""Which patches a masked image keeps: orders of importance (B, n0), the first of which stay.

Draws depend on seed, epoch and sample alone. Shapes: B images, n0 patches on a grid, R rectangles.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.kit.draws import uniform
from harness.objectives.parts.objective import Moment

# Purposes of draws, apart from those of parts/objective.py and parts/visible.py.
ATTENTION_ORDER, RECTANGLES, WITHIN = range(40, 43)
LARGEST_ASPECT = 10 / 3
AREAS = (1 / 16, 1 / 4)
ENOUGH = 64


def attention_order(attention_BN: Tensor, sample_ids_B: Tensor, moment: Moment) -> Tensor:
    """Patches drawn without replacement in proportion to a teacher's class attention.

    Source: OpenGVLab/unmasked_teacher, engines/engine_for_pretraining_umt.py (a multinomial draw of all patches); drawn
    here by exponential keys (Efraimidis and Spirakis 2006).
    """
    drawn = uniform(sample_ids_B, attention_BN.shape[1], moment.seed, ATTENTION_ORDER, moment.epoch)
    keys = -drawn.clamp(min=2.0**-60).log() / attention_BN.double().clamp(min=1e-300)
    return keys.sort(dim=1, stable=True).indices


def block_order(sample_ids_B: Tensor, grid: tuple[int, int], moment: Moment) -> Tensor:
    """Rectangles of patches one after another, then what none covers; within a rectangle by chance.

    UTA names a *reversed* block-wise mask, which keeps blocks where BEiT's removes them, and releases no program: areas
    (1/16 to 1/4 of the image) and aspects (up to BEiT's 10/3) are this project's own.
    """
    rows, columns = grid
    count = rows * columns
    low, high = AREAS
    drawn = uniform(sample_ids_B, 4 * ENOUGH, moment.seed, RECTANGLES, moment.epoch).unflatten(1, (4, ENOUGH))
    area = count * (low + (high - low) * drawn[:, 0])
    aspect = ((2 * drawn[:, 1] - 1) * math.log(LARGEST_ASPECT)).exp()
    height = (area * aspect).sqrt().round().clamp(1, rows)
    width = (area / aspect).sqrt().round().clamp(1, columns)
    top, left = ((rows - height + 1) * drawn[:, 2]).floor(), ((columns - width + 1) * drawn[:, 3]).floor()
    row = torch.arange(rows, device=top.device)[:, None].expand(grid).flatten()
    column = torch.arange(columns, device=top.device).expand(grid).flatten()
    inside = (row >= top[..., None]) & (row < (top + height)[..., None])
    inside &= (column >= left[..., None]) & (column < (left + width)[..., None])
    first = torch.where(inside.any(1), inside.int().argmax(1), ENOUGH)
    return (first + uniform(sample_ids_B, count, moment.seed, WITHIN, moment.epoch)).sort(dim=1, stable=True).indices
