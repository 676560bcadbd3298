"""How fast an evaluation goes, as tables show it, and where a record has it. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.metrics.quantity import Quantity

# Rates are in what the task counts (questions, images …) per second; `model` of the model alone.
THROUGHPUT = (
    Quantity("throughput", "throughput", "1/s", 1),
    Quantity("model_throughput", "throughput, model alone", "1/s", 1),
    Quantity("throughput_ratio", "throughput", "% of dense"),
    Quantity("model_throughput_ratio", "throughput, model alone", "% of dense"),
)


def throughput_of(measured: Mapping[str, Any]) -> dict[str, float | None]:
    """THROUGHPUT of a record's `throughput` by name; the ratios are None where no pass of dense was made in turn."""
    whole, model = measured["end_to_end_per_second"], measured["model_per_second"]
    dense = measured.get("dense")
    return {
        "throughput": whole,
        "model_throughput": model,
        "throughput_ratio": whole / dense["end_to_end_per_second"] if dense else None,
        "model_throughput_ratio": model / dense["model_per_second"] if dense else None,
    }


def spreads_of(measured: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """The least and the largest of a ratio's passes, by quantity; nothing where there was one, or none of dense."""
    dense = measured.get("dense") or {}
    found = {"throughput_ratio": dense.get("end_to_end_ratio"), "model_throughput_ratio": dense.get("model_ratio")}
    return {name: (bounds[0], bounds[1]) for name, bounds in found.items() if bounds}


def images_kept_all(record: Mapping[str, Any]) -> bool:
    """Whether the images that a text-guided method saw without a text kept all their tokens, as a record says."""
    diagnostics = record.get("diagnostics") or {}
    share = diagnostics.get("unguided_tokens")
    return bool(diagnostics.get("fallback")) if share is None else share == 1
