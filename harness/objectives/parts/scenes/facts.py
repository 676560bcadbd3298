"""Facts of the built-in world, and heads that are taught them: what each patch shows, what stands where.

ALBEF's tower starts from supervised weights too (arXiv 2107.07651, 3.1). From random weights the fusion
encoder stays near chance for a long time; a tower whose patches already say what they show removes that plateau.

Shapes: B images, N patches, D width, T = 48 types of object, K = T + T x 4 facts (type present; type at place).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.scene_layout import GRID, PATCHES_PER_SIDE, PLACES, TYPES, Scene

FACTS = TYPES + TYPES * len(PLACES)


class SupervisedHeads(nn.Module):
    """The curriculum's linear heads: what a patch shows, where it lies and what adjoins it; which facts hold of an
    image or a caption, by one head, which puts both into one space; and whether the clause of a noun is true.

    They serve training only and are not shipped.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch_type = nn.Linear(width, TYPES + 1)
        self.patch_cell = nn.Linear(width, GRID * GRID)
        self.neighbours = nn.Linear(width, 4 * (TYPES + 1))
        self.facts = nn.Linear(width, FACTS)
        self.claim = nn.Linear(width, 1)


def image_facts(scene: Scene) -> npt.NDArray[np.bool_]:
    """(K,): which types are present, then which (type, place) pairs are, type-major."""
    facts = np.zeros(FACTS, dtype=np.bool_)
    for thing in scene.things:
        facts[thing.type] = True
        facts[TYPES + thing.type * len(PLACES) + thing.place] = True
    return facts


def patch_loss(heads: SupervisedHeads, image_states_BND: Tensor, types_BN: Tensor) -> Tensor:
    """Mean cross-entropy of what each patch shows; `image_states` (B, 1 + N, D) still hold every patch."""
    logits = heads.patch_type(image_states_BND[:, 1:])
    return F.cross_entropy(logits.flatten(0, 1), types_BN.flatten())


def surroundings_loss(heads: SupervisedHeads, image_states_BND: Tensor, types_BN: Tensor) -> Tensor:
    """Mean cross-entropy of the cell each patch lies in, plus that of what the four adjoining cells show.

    Patches that know their place and neighbours can answer where an object is and what stands beside it.
    """
    patches = image_states_BND[:, 1:]
    places = cell_of_patch().to(patches.device).expand(len(patches), -1)
    cells = F.cross_entropy(heads.patch_cell(patches).flatten(0, 1), places.flatten())
    beside = heads.neighbours(patches).unflatten(-1, (4, TYPES + 1))
    return cells + F.cross_entropy(beside.flatten(0, 2), neighbour_types(types_BN).flatten())


def cell_of_patch() -> Tensor:
    """The cell (0..15, row-major) that each patch lies in, (N,)."""
    rows = torch.arange(PATCHES_PER_SIDE) * GRID // PATCHES_PER_SIDE
    return (rows[:, None] * GRID + rows[None, :]).flatten()


def neighbour_types(types_BN: Tensor) -> Tensor:
    """What the cells left, right, above and below of each patch's own show, (B, N, 4); nothing beyond the edge."""
    step, side = PATCHES_PER_SIDE // GRID, PATCHES_PER_SIDE
    padded = F.pad(types_BN.unflatten(1, (side, side)), (step, step, step, step), value=TYPES)
    middle, low, high = slice(step, step + side), slice(0, side), slice(2 * step, 2 * step + side)
    shifted = [padded[:, middle, low], padded[:, middle, high], padded[:, low, middle], padded[:, high, middle]]
    return torch.stack(shifted, dim=-1).flatten(1, 2)


def facts_loss(head: nn.Linear, class_tokens_BD: Tensor, facts_BK: Tensor, known_BK: Tensor | None = None) -> Tensor:
    """Binary cross-entropy over the facts known (all by default): mean over B of the sum over K, divided by ten."""
    logits = head(class_tokens_BD)
    loss = F.binary_cross_entropy_with_logits(logits, facts_BK.to(logits.dtype), reduction="none")
    if known_BK is not None:
        loss = loss * known_BK
    return loss.sum(dim=1).mean() / 10
