"""How many samples a second an evaluation goes through: in the model alone, and end to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch


@dataclass(frozen=True)
class Throughput:
    """Samples of an evaluation, of some `unit`, and the seconds they took; of many processes, the slowest one's.

    model_seconds: encoders, heads and generation, the device synchronised around every batch; without waiting for
    pixels, metrics and Java. pixel_seconds: waiting for pixels. reading_seconds: what decoding and normalising takes,
    for every image shown, whenever it was decoded. aside_seconds: what is no part of the task, as diagnostics and the
    fitting of a probe.
    """

    unit: str
    samples: int
    model_seconds: float
    pixel_seconds: float
    reading_seconds: float
    aside_seconds: float

    def end_to_end_seconds(self, evaluate_seconds: float) -> float:
        """Of the seconds that `evaluate` took: those of the task, with reading and computing one after the other.

        A cache of decoded images and threads that read ahead hide time that a first run would wait for. Here every
        image counts as read once, with nothing beside it, so that a figure does not depend on which cell came first.
        """
        return evaluate_seconds - self.aside_seconds - self.pixel_seconds + self.reading_seconds


class Stopwatch:
    """Seconds in the model, without waiting for pixels meanwhile; seconds of this waiting; and seconds aside."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.model_seconds = self.pixel_seconds = self.aside_seconds = 0.0
        self.is_aside = False

    @contextmanager
    def model(self) -> Iterator[None]:
        """Time one batch."""
        self._synchronise()
        waited, started = self.pixel_seconds, perf_counter()
        yield
        self._synchronise()
        if not self.is_aside:
            self.model_seconds += perf_counter() - started - (self.pixel_seconds - waited)

    @contextmanager
    def pixels(self) -> Iterator[None]:
        """Time waiting for pixels."""
        started = perf_counter()
        yield
        if not self.is_aside:
            self.pixel_seconds += perf_counter() - started

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time what is no part of the task; nothing within counts as the model's or as waiting."""
        self._synchronise()
        started, self.is_aside = perf_counter(), True
        try:
            yield
        finally:
            self._synchronise()
            self.is_aside = False
            self.aside_seconds += perf_counter() - started

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
