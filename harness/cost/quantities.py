"""The costs that tables and figures show, and where a cost report has them. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from harness.kit.errors import HarnessError
from harness.kit.registry import costs
from harness.metrics.quantity import Quantity, declared

COSTS = (
    Quantity("token_ratio", "tokens", "% of n0", better="lower"),
    Quantity("forward_gmacs", "forward", "GMACs", 1, better="lower"),
    Quantity("gmacs_ratio", "forward", "% of dense", better="lower"),
    Quantity("scoring_share", "scoring", "% of forward", better="lower"),
    Quantity("train_step_ratio", "train step", "% of dense", better="lower"),
    Quantity("train_mib_per_image", "memory", "MiB", 1, better="lower"),
    Quantity("latency_ratio", "latency", "% of dense", better="lower"),
    Quantity("main_gmacs", "forward without scoring", "GMACs", 1, better="lower", headline=False),
    Quantity("dense_gmacs", "forward of dense", "GMACs", 1, better=None, headline=False),
    Quantity("train_step_gmacs", "train step", "GMACs", 1, better="lower", headline=False),
    Quantity("latency_ms", "latency", "ms", 1, better="lower", headline=False),
)
# Of the patches that texts mention, by what became of them in the last block.
MENTIONED = (
    Quantity("mentioned_kept", "kept", "% mentioned"),
    Quantity("mentioned_merged", "merged", "% mentioned", better=None),
)


@lru_cache(1)
def extra_costs() -> dict[tuple[str, str], Quantity]:
    """(registered cost, quantity) -> what its file declares, read without import; HarnessError for a name in use."""
    found: dict[tuple[str, str], Quantity] = {}
    known = {one.name for one in (*COSTS, *MENTIONED)}
    for entry in costs.entries().values():
        for quantity in declared(entry.path) if entry.path is not None else ():
            if quantity.name in known:
                raise HarnessError(f"cost {entry.name}: quantity {quantity.name!r} is declared elsewhere; rename it")
            known.add(quantity.name)
            found[entry.name, quantity.name] = quantity
    return found


def costs_of(cost: Mapping[str, Any]) -> dict[str, float | None]:
    """COSTS of a cost report by name, and what the registered costs declare; None where it says nothing."""
    forward, dense, train = (cost.get(name) or {} for name in ("forward", "dense", "train_step"))
    memory, latency = cost.get("memory") or {}, cost.get("latency") or {}
    total, step = forward.get("total_gmacs"), train.get("total_gmacs")
    aside = sum(forward.get(f"{part}_gmacs") or 0.0 for part in ("scoring", "matching", "predictor"))
    return {
        "token_ratio": cost.get("ratio"),
        "forward_gmacs": total,
        "gmacs_ratio": over(total, dense.get("forward_gmacs")),
        "scoring_share": over(aside, total),
        "train_step_ratio": over(step, dense.get("train_step_gmacs")),
        "train_mib_per_image": memory.get("train_mib_per_image"),
        "latency_ratio": latency.get("ratio"),
        "main_gmacs": forward.get("main_gmacs"),
        "dense_gmacs": dense.get("forward_gmacs"),
        "train_step_gmacs": step,
        "latency_ms": latency.get("median_ms"),
    } | {name: (cost.get(key) or {}).get(name) for key, name in extra_costs()}


def spreads_of(cost: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """By cost, the quartiles of what was timed again and again, and of an adaptive method's tokens the 5 and the 95 %
    of images; nothing where a report does not hold them.
    """
    quartiles, images = (cost.get("latency") or {}).get("ratio_iqr"), cost.get("spread")
    found = {"latency_ratio": (quartiles[0], quartiles[1])} if quartiles else {}
    if images and "ratio_p5" in images:
        found["token_ratio"] = (images["ratio_p5"], images["ratio_p95"])
    return found


def mentioned_of(diagnostics: Mapping[str, Any]) -> dict[str, float | None]:
    """MENTIONED of a record's diagnostics by name; None where texts name no patches."""
    shares = {fate: diagnostics.get(f"{fate}_per_block") for fate in ("mentioned_kept", "mentioned_merged")}
    return {fate: of_blocks[-1] if of_blocks else None for fate, of_blocks in shares.items()}


def over(part: float | None, whole: float | None) -> float | None:
    """A quotient; None where one of its sides is missing, or the whole is 0."""
    return part / whole if part is not None and whole else None
