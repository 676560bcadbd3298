"""How many samples a second an evaluation goes through: in the model alone, and end to end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import torch

from harness.kit.distributed import gather_objects

# A pass is made again, warm and in turn with dense, as often as fits in these seconds, and REPEATS at most,
SPARE_SECONDS = 3.0
REPEATS = 5
# or once, where it takes no longer than these.
ONCE_MORE_SECONDS = 15.0


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


@dataclass(frozen=True)
class Pass:
    """One evaluation of a set: what `throughput` says of it, and the seconds that all of it took."""

    throughput: Throughput
    seconds: float

    @property
    def end_to_end_seconds(self) -> float:
        """Seconds of the task, with reading and computing one after the other.

        A cache of decoded images and threads that read ahead hide time that a first run would wait for. Here every
        image counts as read once, with nothing beside it, so that a figure does not depend on which cell came first.
        """
        measured = self.throughput
        return self.seconds - measured.aside_seconds - measured.pixel_seconds + measured.reading_seconds


def settled(
    first: Pass, again: Callable[[], Pass], dense: Callable[[], Pass] | None = None
) -> tuple[list[Pass], list[Pass]]:
    """The passes that a set's speed is taken from, and those of dense that were made in turn with them.

    They are those after the first, or the first where it took over ONCE_MORE_SECONDS, with none of dense. A first pass
    also pays for what later ones find ready (threads, memory, kernels), and the machine's own rate changes within
    seconds: both show in short passes. All processes decide alike, by the slowest.
    """
    slowest = max(gather_objects(first.seconds))
    count = min(REPEATS, int(SPARE_SECONDS / slowest)) or int(slowest <= ONCE_MORE_SECONDS)
    passes, beside = [], []
    for _ in range(count):
        if dense is not None:
            beside.append(dense())
        passes.append(again())
    return passes or [first], beside


def speeds(passes: Sequence[Pass], beside: Sequence[Pass] = ()) -> dict[str, Any]:
    """Samples a second, end to end and in the model alone, by the medians of the seconds of some passes.

    "dense": the same of dense's passes `beside` them, in turn with them; None where there are none. Of several, with
    the least and the largest quotient of a pass's rate and the dense one's beside it.
    """
    measured = passes[0].throughput
    whole = median(one.end_to_end_seconds for one in passes)
    model = median(one.throughput.model_seconds for one in passes)
    found: dict[str, Any] = {
        "unit": measured.unit,
        "samples": measured.samples,
        "passes": len(passes),
        "end_to_end_seconds": round(whole, 4),
        "model_seconds": round(model, 4),
        "end_to_end_per_second": round(measured.samples / whole, 3),
        "model_per_second": round(measured.samples / model, 3),
    }
    return found | {"dense": _rates(speeds(beside)) | _spreads(passes, beside) if beside else None}


def _spreads(passes: Sequence[Pass], beside: Sequence[Pass]) -> dict[str, list[float]]:
    pairs = list(zip(passes, beside, strict=False))
    if len(pairs) < 2:
        return {}
    whole = [dense.end_to_end_seconds / own.end_to_end_seconds for own, dense in pairs]
    model = [dense.throughput.model_seconds / own.throughput.model_seconds for own, dense in pairs]
    return {
        "end_to_end_ratio": [round(min(whole), 4), round(max(whole), 4)],
        "model_ratio": [round(min(model), 4), round(max(model), 4)],
    }


def _rates(speed: dict[str, Any]) -> dict[str, float]:
    return {name: speed[name] for name in ("end_to_end_per_second", "model_per_second")}
