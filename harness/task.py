"""What a task is: a class in a file of harness/tasks/, with options, metric names and one `evaluate`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from harness.data.formats import ImageTextSet
from harness.evaluation import VisionEncoder


class TaskOptions(BaseModel):
    """What a task lets one choose; stands in the record and in its key."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass
class TaskData:
    """A set as a task sees it: the annotations and the pixels (I, C, H, W) of its images, in the same order."""

    annotations: ImageTextSet
    images: Tensor

    @property
    def names(self) -> list[str]:
        """One name per image that tells it from all others: its path below the folder that all of them share."""
        paths = self.annotations.images
        shared = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
        return [path.relative_to(shared).as_posix() for path in paths]


@dataclass
class Outcome:
    """Per-sample outcomes by metric, each a list of (sample id, cluster id, value), and diagnostics.

    A metric's value is the mean of the samples', in 0..1 for most; that of the metrics of harness.metrics.corpus's
    AGGREGATES (BLEU, METEOR) comes from `parts`: metric -> (n, K), what each sample adds to it.
    """

    task: str
    outcomes: Mapping[str, tuple[Sequence[str], Sequence[str], np.ndarray]]
    diagnostics: dict[str, Any] = field(default_factory=dict)
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """The long format of the Parquet beside a record: task, metric, sample, cluster, value, and parts if any."""
        parts = [
            pd.DataFrame(
                {
                    "task": self.task,
                    "metric": metric,
                    "sample": list(samples),
                    "cluster": list(clusters),
                    "value": np.asarray(values, dtype=np.float64),
                }
                | ({"parts": list(self.parts[metric])} if metric in self.parts else {})
            )
            for metric, (samples, clusters, values) in self.outcomes.items()
        ]
        return pd.concat(parts, ignore_index=True)


class Task(ABC):
    """Base class. `Options` has the defaults of the default job; `metrics` are the names `evaluate` may fill.

    `NEEDS`: abilities of a host, one of which it must have; `READS`: the field of an ImageTextSet it reads.
    """

    KIND: ClassVar[str] = "task"
    Options: ClassVar[type[TaskOptions]] = TaskOptions
    metrics: ClassVar[tuple[str, ...]] = ()
    NEEDS: ClassVar[frozenset[str]] = frozenset()
    READS: ClassVar[str] = ""

    @abstractmethod
    def load(self, folder: Any, limit: int | None) -> ImageTextSet:
        """The annotations this task needs from a data folder; HarnessError when they are not there."""

    @abstractmethod
    def evaluate(self, encoder: VisionEncoder, data: TaskData, options: TaskOptions) -> Outcome:
        """Score the encoder's model and method on the data."""
