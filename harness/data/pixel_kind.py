"""What kind of pictures a set holds, by a few numbers of each, and the share that is unlike those of a training set.

A host that was trained on drawings knows nothing of photographs, whatever its score. The numbers tell such kinds apart,
not subjects: the mean and the deviation of each channel, and how much of a picture is flat (neighbours of one colour),
of which photographs have a fifth, drawings nearly all, and the built-in world, whose pictures are grainy, nothing.
Torch-free. Shapes: B pictures, 7 numbers of each.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.kit.errors import HarnessError

# Neighbours whose channels differ by no more are of one colour.
FLAT = 2.5 / 255
# What a training set's least and greatest are widened by on either side, of their distance.
MARGIN = 0.25
KIND_FILE = "pixels.json"
Pictures = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class PixelKind:
    """The pictures that a host was trained on: the name of the set, and the range of each number."""

    data: str
    low: tuple[float, ...]
    high: tuple[float, ...]

    @staticmethod
    def of(data: str, pictures: Pictures) -> PixelKind:
        """That of some pictures (B, 3, H, W) in 0..1."""
        numbers = describe(pictures)
        low, high = numbers.min(axis=0), numbers.max(axis=0)
        wide = MARGIN * (high - low)
        return PixelKind(data, *(tuple(round(float(end), 5) for end in ends) for ends in (low - wide, high + wide)))

    def unlike(self, pictures: Pictures) -> float:
        """The share of pictures (B, 3, H, W), in 0..1, any of whose numbers lies outside the range."""
        numbers = describe(pictures)
        return float(((numbers < np.array(self.low)) | (numbers > np.array(self.high))).any(axis=1).mean())

    def save(self, folder: Path) -> None:
        """Write it beside the weights of a folder."""
        (folder / KIND_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def describe(pictures: Pictures) -> npt.NDArray[np.float64]:
    """The numbers (B, 7) of pictures (B, 3, H, W) in 0..1."""
    pictures = pictures.astype(np.float64)
    right, below = (np.abs(np.diff(pictures, axis=axis)).max(axis=1) <= FLAT for axis in (3, 2))
    flat = (right.mean(axis=(1, 2)) + below.mean(axis=(1, 2))) / 2
    channels = [pictures.mean(axis=(2, 3)), pictures.std(axis=(2, 3), ddof=1), flat[:, None]]
    return np.concatenate(channels, axis=1)


def kind_beside(weights: Path) -> PixelKind | None:
    """The kind of pictures that a file of weights was trained on, as a file beside it says; None where none does.

    Weights of a task may lie in a folder of the set that they belong to. HarnessError for a file that is malformed.
    """
    for folder in (weights.parent, weights.parent.parent):
        path = folder / KIND_FILE
        if path.is_file():
            try:
                fields = json.loads(path.read_text(encoding="utf-8"))
                return PixelKind(fields["data"], tuple(fields["low"]), tuple(fields["high"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                line = f"{path}: does not say what pictures the weights know ({error}); delete it"
                raise HarnessError(line) from error
    return None
