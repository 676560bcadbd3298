"""What each patch of a scene shows, in parts: the shape, the colour, its row and column, and what adjoins it.

Each part has a head of its own, where one of 48 types would leave red things nothing in common: fusion learns sooner
which patch a word is of. Shapes: B images, N patches, D width; a patch that shows no object has a class of its own.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.scene_layout import COLOUR_NAMES, GRID, SHAPES, TYPES
from harness.objectives.parts.scenes.facts import FACTS, cell_of_patch, neighbour_types

# Classes of a part: those of objects, and none.
SHAPE_CLASSES, COLOUR_CLASSES = len(SHAPES) + 1, len(COLOUR_NAMES) + 1
ADJOINING = 4


class PartHeads(nn.Module):
    """Linear heads on a tower; they serve training only and are not shipped."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape, self.colour = nn.Linear(width, SHAPE_CLASSES), nn.Linear(width, COLOUR_CLASSES)
        self.row, self.column = nn.Linear(width, GRID), nn.Linear(width, GRID)
        self.beside_shape = nn.Linear(width, ADJOINING * SHAPE_CLASSES)
        self.beside_colour = nn.Linear(width, ADJOINING * COLOUR_CLASSES)
        self.facts = nn.Linear(width, FACTS)


def parts_of(types: Tensor) -> tuple[Tensor, Tensor]:
    """Shapes and colours of types (0..47, TYPES for no object), each with its last class for no object."""
    empty, colours = types == TYPES, len(COLOUR_NAMES)
    shapes = (types // colours).masked_fill(empty, SHAPE_CLASSES - 1)
    return shapes, (types % colours).masked_fill(empty, COLOUR_CLASSES - 1)


def parts_loss(heads: PartHeads, patches_BND: Tensor, types_BN: Tensor) -> Tensor:
    """Mean cross-entropy of each patch's shape, plus that of its colour."""
    return _of_parts(heads.shape(patches_BND), heads.colour(patches_BND), types_BN)


def places_loss(heads: PartHeads, patches_BND: Tensor) -> Tensor:
    """Mean cross-entropy of the row, plus that of the column, of the cell that each patch lies in."""
    cells = cell_of_patch().to(patches_BND.device).expand(len(patches_BND), -1)
    rows, columns = heads.row(patches_BND), heads.column(patches_BND)
    return _cross_entropy(rows, cells // GRID) + _cross_entropy(columns, cells % GRID)


def beside_loss(heads: PartHeads, patches_BND: Tensor, types_BN: Tensor) -> Tensor:
    """As `parts_loss`, of what the four adjoining cells show."""
    shapes = heads.beside_shape(patches_BND).unflatten(-1, (ADJOINING, SHAPE_CLASSES))
    colours = heads.beside_colour(patches_BND).unflatten(-1, (ADJOINING, COLOUR_CLASSES))
    return _of_parts(shapes, colours, neighbour_types(types_BN))


def _of_parts(shapes: Tensor, colours: Tensor, types: Tensor) -> Tensor:
    right_shapes, right_colours = parts_of(types)
    return _cross_entropy(shapes, right_shapes) + _cross_entropy(colours, right_colours)


def _cross_entropy(logits: Tensor, right: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), right.flatten())
