"""How many samples a second an evaluation goes through: in the model alone, and end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch


@dataclass(frozen=True)
class Throughput:
    """Samples of an evaluation, of some `unit`, and the seconds they took; of many processes, the slowest one's.

    model_seconds: encoders, heads and generation, the device synchronised around every batch; without waiting for
    pixels, metrics and Java. pixel_seconds: waiting for pixels. reading_seconds: what decoding and normalising the
    images takes with nothing beside it, those included that were decoded for an earlier cell and kept since.
    aside_seconds: what is no part of the task, as diagnostics and the fitting of a probe.
    """

    unit: str
    samples: int
    model_seconds: float
    pixel_seconds: float
    reading_seconds: float
    aside_seconds: float

    def end_to_end_seconds(self, evaluate_seconds: float) -> float:
        """Of the seconds that `evaluate` took: those of the task, with reading and computing one after the other.

        A cache of decoded images and threads that read ahead hide time that a first run would wait for. Here it is
        counted in full, so that a figure does not depend on which cell came first; it is an upper bound of what a run
        of this cell alone takes.
        """
        return evaluate_seconds - self.aside_seconds - self.pixel_seconds + self.reading_seconds


class Stopwatch:
    """Seconds in the model, without what it waits for meanwhile, and seconds aside."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.model_seconds = self.aside_seconds = 0.0
        self._off = False

    @contextmanager
    def model(self, waited: Callable[[], float]) -> Iterator[None]:
        """Time one batch; `waited` says how many seconds were spent waiting so far."""
        self._synchronise()
        before, started = waited(), perf_counter()
        yield
        self._synchronise()
        if not self._off:
            self.model_seconds += perf_counter() - started - (waited() - before)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Time what is no part of the task; nothing within counts as the model's."""
        self._synchronise()
        started, self._off = perf_counter(), True
        try:
            yield
        finally:
            self._synchronise()
            self._off = False
            self.aside_seconds += perf_counter() - started

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
