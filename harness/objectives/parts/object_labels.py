"""Labels of objects in images, as patches are to tell them: of the built-in worlds, or of a label file.

A label file is JSON: {"classes": [names], "attributes": [names], "images": {NAME: [{"class": name, "attribute": name or
null, "box": [left, top, right, bottom]}]}}; NAME is the image's path below the data's folder, or its file's name, boxes
are shares of width and height. Shapes: B images, O objects at most of one, n0 patches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from harness.data.pairs import PairRef, sample_id
from harness.data.scene_layout import COLOUR_NAMES, GRID, SHAPES
from harness.kit.errors import HarnessError
from harness.kit.reading import read_json
from harness.kit.settings import validated

NOTHING = -1


class Labelled(BaseModel):
    """One object of a label file."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    kind: str
    attribute: str | None = None
    box: tuple[float, float, float, float]


class LabelFile(BaseModel):
    """What a label file holds."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    classes: tuple[str, ...]
    attributes: tuple[str, ...] = ()
    images: dict[str, tuple[Labelled, ...]] = {}


@dataclass(frozen=True)
class PatchLabels:
    """Of each patch: class (B, n0), NOTHING where no object is; attribute (B, n0), NOTHING where none is known; the
    object's box (B, n0, 4).
    """

    classes: Tensor
    attributes: Tensor
    boxes: Tensor


def read_labels(path: Path | None) -> LabelFile:
    """A label file; without one the names of the built-in worlds, whose images say themselves what they show.

    HarnessError for a file that is none, and for objects whose class, attribute or box cannot be.
    """
    if path is None:
        return LabelFile(classes=SHAPES, attributes=COLOUR_NAMES)
    content = read_json(path)
    images = content.get("images", {}) if isinstance(content, dict) else None
    if not isinstance(images, dict):
        raise HarnessError(f"label file {path}: expected an object with classes, attributes and images")
    renamed = {name: _renamed(objects) for name, objects in images.items()}
    labels = validated(LabelFile, content | {"images": renamed}, f"label file {path}")
    for name, objects in labels.images.items():
        for one in objects:
            left, top, right, bottom = one.box
            known = one.kind in labels.classes and one.attribute in (None, *labels.attributes)
            if not (known and 0 <= left < right <= 1 and 0 <= top < bottom <= 1):
                raise HarnessError(
                    f"label file {path}: image {name}: {one.kind}, {one.attribute}, box {list(one.box)}: expected a "
                    "class and an attribute that it lists, and a box as shares, left < right, top < bottom"
                )
    return labels


def _renamed(objects: Any) -> Any:
    """An image's objects with `kind` for `class`; what are no objects as they are, for the check that follows."""
    if not isinstance(objects, list) or not all(isinstance(one, dict) for one in objects):
        return objects
    return [{"kind" if key == "class" else key: value for key, value in one.items()} for one in objects]


def objects_of(refs: Sequence[PairRef], labels: LabelFile, from_file: bool) -> dict[int, tuple[Labelled, ...]]:
    """The objects of each pair by the pair's number; HarnessError where an image of a pair has no entry."""
    folders: dict[Path, Mapping[str, tuple[Labelled, ...]]] = {}
    found = {}
    for ref in refs:
        stem = ref.key.rpartition("#")[0] or ref.key
        known = labels.images if from_file else _of_folder(ref, folders)
        objects = known.get(stem, known.get(PurePath(stem).name))
        if objects is None:
            way = (
                "add it to the label file"
                if from_file
                else "name a label file with --set-objective semantic.labels=FILE"
            )
            raise HarnessError(f"objective semantic: no labels of image {stem}; {way}")
        found[sample_id(ref.key)] = objects
    return found


def _of_folder(
    ref: PairRef, folders: dict[Path, Mapping[str, tuple[Labelled, ...]]]
) -> Mapping[str, tuple[Labelled, ...]]:
    """What the built-in world that an image is of states of its images, by file name; empty for other data."""
    if not isinstance(ref.image, Path):
        return {}
    folder = ref.image.parent.parent
    if folder not in folders:
        found: dict[str, tuple[Labelled, ...]] = {}
        for path in sorted(folder.glob("captions_*.json")):
            content = read_json(path)
            for image in content.get("images", ()) if isinstance(content, dict) else ():
                if "objects" in image:
                    found[image["file_name"]] = tuple(_of_cell(one) for one in image["objects"])
        folders[folder] = found
    return folders[folder]


def _of_cell(thing: Mapping[str, Any]) -> Labelled:
    row, column = divmod(thing["cell"], GRID)
    box = column / GRID, row / GRID, (column + 1) / GRID, (row + 1) / GRID
    return Labelled(kind=thing["shape"], attribute=thing["color"], box=box)


@dataclass(frozen=True)
class ObjectTable:
    """Objects of samples: the samples' numbers (S,), ascending; classes and attributes (S, O), NOTHING where there is
    none; boxes (S, O, 4).
    """

    samples: Tensor
    classes: Tensor
    attributes: Tensor
    boxes: Tensor

    def rows(self, sample_ids_B: Tensor) -> ObjectTable:
        """Those of some samples, which are all there."""
        device = sample_ids_B.device
        at = torch.searchsorted(self.samples.to(device), sample_ids_B).clamp(max=len(self.samples) - 1)
        parts = (part.to(device)[at] for part in (self.classes, self.attributes, self.boxes))
        return ObjectTable(sample_ids_B, *parts)


def object_table(objects: Mapping[int, Sequence[Labelled]], labels: LabelFile) -> ObjectTable:
    """The objects of samples by their numbers; of none, one sample that shows nothing."""
    known = sorted(objects.items()) or [(0, ())]
    most = max(1, *(len(several) for _, several in known))
    kinds = {name: at for at, name in enumerate(labels.classes)}
    attributes: dict[str | None, int] = {name: at for at, name in enumerate(labels.attributes)}
    blank = [NOTHING] * most

    def padded(values: list[int]) -> list[int]:
        return values + blank[len(values) :]

    return ObjectTable(
        torch.tensor([number for number, _ in known], dtype=torch.int64),
        torch.tensor([padded([kinds[one.kind] for one in several]) for _, several in known]),
        torch.tensor([padded([attributes.get(one.attribute, NOTHING) for one in several]) for _, several in known]),
        torch.tensor([[*(one.box for one in several), *[(0.0,) * 4] * (most - len(several))] for _, several in known]),
    )


def patch_labels(objects: ObjectTable, grid: tuple[int, int]) -> PatchLabels:
    """Labels of images' patches: a patch shows the smallest object whose box holds its centre."""
    (rows, columns), device = grid, objects.boxes.device
    row = torch.arange(rows, device=device).repeat_interleave(columns, output_size=rows * columns)
    column = torch.arange(columns, device=device).repeat(rows)
    x, y = (column + 0.5) / columns, (row + 0.5) / rows
    left, top, right, bottom = objects.boxes.unsqueeze(2).unbind(-1)
    inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
    area = ((right - left) * (bottom - top)).expand_as(inside).masked_fill(~inside, torch.inf)
    smallest, shown = area.argmin(dim=1), inside.any(dim=1)

    def at_patches(values_BO: Tensor) -> Tensor:
        return values_BO.gather(1, smallest).masked_fill(~shown, NOTHING)

    boxes = objects.boxes.gather(1, smallest.unsqueeze(-1).expand(-1, -1, 4))
    return PatchLabels(at_patches(objects.classes), at_patches(objects.attributes), boxes)
