"""What a training run says while it runs: a JSON-lines log and a line on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.kit.errors import HarnessError

LOG_FILE = "log.jsonl"
LOG_BYTES = 200_000


class Progress:
    """Writes `log.jsonl` in a run's folder and, unless quiet, a line per event on stderr."""

    def __init__(self, folder: Path, quiet: bool) -> None:
        self.folder, self.quiet = folder, quiet
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HarnessError(f"--out {folder}: cannot be made a folder ({error.strerror})") from error

    def say(self, line: str) -> None:
        """One line for people, on stderr."""
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def losses(
        self, stage: str, at: tuple[int, int], losses: dict[str, Tensor], images: tuple[int, float], seconds: float
    ) -> None:
        """Log a step's weighted losses; this is where they leave the device.

        `at` is the step and how many there are, `images` how many a step takes and how many pass per second.
        """
        (step, steps), (batch, images_per_s) = at, images
        values = {key: round(value.item(), 5) for key, value in losses.items()}
        self._log(
            {"stage": stage, "step": step, "seconds": round(seconds, 1), "images_per_s": round(images_per_s, 1)}
            | {"losses": values}
        )
        left = (steps - step) * batch / images_per_s / 60
        spoken = "  ".join(f"{key} {value:.3f}" for key, value in values.items())
        self.say(f"{stage} {step}/{steps}  {images_per_s:.0f} images/s  about {left:.0f} min left  {spoken}")

    def measures(self, stage: str, step: int, measures: dict[str, float], seconds: float) -> None:
        """Log held-out measures, in percent."""
        values = {key: round(value, 2) for key, value in measures.items()}
        self._log({"stage": stage, "step": step, "seconds": round(seconds, 1), "held_out": values})
        self.say(f"{stage} {step}  " + "  ".join(f"{key} {value:.1f}" for key, value in values.items()))

    def _log(self, entry: dict[str, Any]) -> None:
        with (self.folder / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def thin_log(folder: Path) -> None:
    """Drop every other loss entry until the log is below LOG_BYTES; held-out measures stay."""
    path = folder / LOG_FILE
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    while sum(len(json.dumps(entry)) + 1 for entry in entries) > LOG_BYTES:
        losses = [entry for entry in entries if "losses" in entry]
        dropped = {id(entry) for entry in losses[1::2]}
        if not dropped:
            break
        entries = [entry for entry in entries if id(entry) not in dropped]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
