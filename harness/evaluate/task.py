"""What a task is: a class in a file of harness/tasks/, with options, metric names and one `evaluate`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from harness.data.formats import ImageTextSet
from harness.data.image_store import ImageStore
from harness.evaluate.encoder import VisionEncoder
from harness.evaluate.timing import Throughput
from harness.hosts.ready import Host
from harness.kit.shown import in_utf8
from harness.metrics.corpus import AGGREGATES
from harness.metrics.quantity import Quantity

if TYPE_CHECKING:
    import pandas as pd


class TaskOptions(BaseModel):
    """What a task lets one choose; stands in the record and in its key."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BlindOptions(TaskOptions):
    """blank_images: show the mean colour instead of every image, to see what texts alone give away.

    Retrieval and classification have no such option: all images alike, every score is a tie, and ranks say nothing.
    """

    blank_images: bool = False


@dataclass
class TaskData:
    """A set as a task sees it: the annotations, and its images in the same order.

    Where `ImageTextSet.in_order` gave the set, results depend on no order of files and lists.
    """

    annotations: ImageTextSet
    images: ImageStore

    @property
    def names(self) -> list[str]:
        """One name per image that tells it from all others: its path below the folder that all of them share.

        Of names that are not UTF-8 the bytes that are none are written out.
        """
        paths = self.annotations.images
        shared = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
        return [in_utf8(path.relative_to(shared).as_posix()) for path in paths]

    def places(self, images: Iterable[Path]) -> Tensor:
        """Where some images stand in the set, an index (B,)."""
        place = {image: index for index, image in enumerate(self.annotations.images)}
        return torch.tensor([place[image] for image in images], dtype=torch.int64)


@dataclass
class Outcome:
    """Per-sample outcomes by metric, each a list of (sample id, cluster id, value), the time taken, and diagnostics.

    A metric's value is the mean of the samples', in 0..1 for most; that of the metrics of harness.metrics.corpus's
    AGGREGATES (BLEU, METEOR) comes from `parts`: metric -> (n, K), what each sample adds to it.
    """

    task: str
    outcomes: Mapping[str, tuple[Sequence[str], Sequence[str], np.ndarray]]
    throughput: Throughput
    diagnostics: dict[str, Any] = field(default_factory=dict)
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)

    def values(self) -> dict[str, float]:
        """Every metric's value over all samples."""
        return {
            metric: float(AGGREGATES[metric](self.parts[metric].sum(0)) if metric in AGGREGATES else np.mean(values))
            for metric, (_, _, values) in self.outcomes.items()
        }

    def frame(self) -> pd.DataFrame:
        """The long format of the Parquet beside a record: task, metric, sample, cluster, value, and parts if any."""
        import pandas as pd  # it takes half a second to import, and a plan needs none

        parts = [
            pd.DataFrame(
                {
                    "task": self.task,
                    "metric": metric,
                    "sample": [in_utf8(sample) for sample in samples],
                    "cluster": [in_utf8(cluster) for cluster in clusters],
                    "value": np.asarray(values, dtype=np.float64),
                }
                | ({"parts": list(self.parts[metric])} if metric in self.parts else {})
            )
            for metric, (samples, clusters, values) in self.outcomes.items()
        ]
        return pd.concat(parts, ignore_index=True)


class Task(ABC):
    """Base class. `Options` has the defaults of the default job; `quantities` are the metrics `evaluate` may fill.

    Tables read `quantities` without importing the file: it is a tuple of `Quantity(…)` with literal arguments.

    `NEEDS`: abilities of a host, one of which it must have; none where any host will do. `READS`: the field of an
    ImageTextSet it reads.
    """

    KIND: ClassVar[str] = "task"
    Options: ClassVar[type[TaskOptions]] = TaskOptions
    quantities: ClassVar[tuple[Quantity, ...]] = ()
    NEEDS: ClassVar[frozenset[str]] = frozenset()
    READS: ClassVar[str] = ""

    @classmethod
    def unavailable(cls) -> str | None:
        """Why this machine cannot do the task, so that `--tasks all` leaves it out and says so; None where it can."""
        return None

    @abstractmethod
    def load(self, folder: Any, limit: int | None, split: str | None = None) -> ImageTextSet:
        """The annotations this task needs from a data folder; HarnessError when they are not there.

        `limit` keeps the first images; `split` is the one to take, None for the loader's own choice (test, or else …).
        """

    def check(  # noqa: B027 - most tasks have nothing to check
        self, host: Host, annotations: ImageTextSet, options: TaskOptions
    ) -> None:
        """HarnessError, before anything is measured, where the host cannot do the task on this set in this way."""

    @abstractmethod
    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        """Score the encoder's model and method on the data."""
