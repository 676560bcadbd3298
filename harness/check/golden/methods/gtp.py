"""GTP's golden files."""

from __future__ import annotations

from typing import Any

from harness.check.golden.file import Golden, difference
from harness.check.golden.vit import places_of, run_errors, run_vit


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The selection's name may end with how heads are joined, by their mean if not; a graph that is None is spatial
    where one is needed.
    """
    selection, removed = config["selection"], config["num_prop"]
    heads = "Max" if selection.endswith("Max") else "Mean"
    same = ("sparsity", "token_scale", "num_neighbours", "alpha")
    return {
        "selection": selection.removesuffix(heads),
        "heads": heads,
        "propagation": config["propagation"] or "None",
        "graph": "Spatial" if config["graph_type"] in (None, "None") else config["graph_type"],
        "num_prop_per_block" if isinstance(removed, list) else "num_prop": removed,
        **{name: config[name] for name in same},
    }


def check(golden: Golden) -> dict[str, float]:
    """These files count kept tokens from the class token, which they do not list."""
    run = run_vit(golden, settings(golden.config))
    errors = run_errors(run)
    for name, expected in golden.part("output").items():
        if name.startswith("kept."):
            errors[name] = difference(places_of(run, name, expected) + run.tokens.prefix, expected)
    return errors
