"""What a training cost, as tables show it, and where a record has it. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.metrics.quantity import Quantity

PRETRAINING = "pretrain"  # The name of the stage whose losses are drawn.
# Of the stage that a protocol is named after, in which the method works.
TRAINED = (
    Quantity("trained_pairs", "pairs seen", "thousands", 1e-3, better=None),
    Quantity("trained_tmacs", "training", "TMACs", 1e-3, better="lower"),
    Quantity("trained_minutes", "training", "minutes", 1 / 60, better="lower"),
    Quantity("trained_mib", "training, peak", "MiB", 1, better="lower"),
)


def trained_of(stages: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """TRAINED of a record's `trained` by name; empty where nothing was trained."""
    if not stages:
        return {}
    first = stages[0]
    fields = ("pairs", "train_gmacs", "seconds", "peak_mib")
    return {quantity.name: first.get(field) for quantity, field in zip(TRAINED, fields, strict=True)}
