"""Semantic visual losses: every patch tells the class, the attribute and the box of the object that it shows.

Source: Yang, Liu and Lin 2023 (TMM, arXiv 2301.07236): pre-training from pixels with three kinds of auxiliary visual
losses of what a region model knows. Their formulas are in no source that was read, so all three are this project's
own: cross-entropy of the class (or nothing) of each patch, of the attribute, and the mean distance of box edges, over
labels (parts/object_labels.py) that are true in the built-in worlds and a detector's on other data. With a method each
patch is predicted from the token that it lives in; a merged token thus has the mean of its patches' targets, each
counting once, and patches that are gone have no loss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.pair_loader import PairLoader
from harness.hosts.host import HostModel
from harness.hosts.parts.towers import open_tower
from harness.kit import distributed
from harness.kit.errors import HarnessError
from harness.objectives.parts.batches import Batches
from harness.objectives.parts.object_labels import NOTHING, object_table, objects_of, patch_labels, read_labels
from harness.objectives.parts.objective import Losses, Moment, Objective, ObjectiveConfig, Pairs


class SemanticConfig(ObjectiveConfig):
    """labels: a label file; left out, the objects that the built-in worlds state. Weights: of the three losses."""

    FILES = ("labels",)
    labels: Path | None = None
    class_weight: float = Field(default=1.0, ge=0)
    attribute_weight: float = Field(default=1.0, ge=0)
    box_weight: float = Field(default=1.0, ge=0)


class SemanticObjective(Objective[HostModel]):
    """Classes, attributes and boxes, each the mean over the patches that have one, of all processes."""

    Config = SemanticConfig
    LEAVES_UNUSED = True

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        shape = open_tower(self.host.vision).shape
        assert shape.grid is not None
        self.grid, self.labels = shape.grid, read_labels(self.config.labels)
        self.objects = object_table({}, self.labels)
        self.kind = nn.Linear(shape.width, len(self.labels.classes) + 1)
        self.attribute = nn.Linear(shape.width, max(1, len(self.labels.attributes)))
        self.box = nn.Linear(shape.width, 4)

    def prepare(self) -> None:
        recipe = self.recipe
        if recipe.crop is not None or recipe.flip or recipe.randaugment:
            raise HarnessError(
                "objective semantic: labels speak of the whole image as it is; take --recipe crop=null --recipe "
                "flip=false --recipe randaugment=false"
            )

    def begin(self, batches: Batches) -> None:
        if not isinstance(batches, PairLoader) or batches.shards:
            raise HarnessError("objective semantic: labels go with images by name, not with shards; unpack them")
        objects = objects_of(batches.pairs, self.labels, self.config.labels is not None)
        self.objects = object_table(objects, self.labels)

    def losses(self, pairs: Pairs, moment: Moment) -> Losses:
        texts = self.host.text_batch(pairs.ids, pairs.mask) if self.reducer.needs_text else None
        tokens = self.encode_images(pairs.pixels, texts, traced=True)
        assert tokens.origin is not None
        states, here = tokens.with_states(self.host.normed(tokens)).at_inputs()[:, tokens.prefix :], tokens.origin >= 0
        truth = patch_labels(self.objects.rows(pairs.sample_ids), self.grid)
        kinds, attributes, boxes = truth.classes, truth.attributes, truth.boxes.to(states.dtype)
        shown, known = here & (kinds != NOTHING), here & (attributes != NOTHING)
        kinds = torch.where(kinds == NOTHING, len(self.labels.classes), kinds)
        distance = (self.box(states).sigmoid() - boxes).abs().mean(dim=-1)
        return {
            "classes": self.config.class_weight * _mean(_each(self.kind(states), kinds), here),
            "attributes": self.config.attribute_weight
            * _mean(_each(self.attribute(states), attributes.clamp(min=0)), known),
            "boxes": self.config.box_weight * _mean(distance, shown),
        }


def _each(logits_BNC: Tensor, labels_BN: Tensor) -> Tensor:
    return F.cross_entropy(logits_BNC.flatten(0, 1), labels_BN.flatten(), reduction="none").view(labels_BN.shape)


def _mean(each_BN: Tensor, counted_BN: Tensor) -> Tensor:
    return distributed.global_mean((each_BN * counted_BN).sum(), counted_BN.sum())
