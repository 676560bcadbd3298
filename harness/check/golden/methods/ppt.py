"""PPT's golden files."""

from __future__ import annotations

from typing import Any

from harness.check.golden.file import Golden, difference, merges_per_block
from harness.check.golden.vit import run_errors, run_vit


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """`r` as in ToMe's files, but a list has one entry a listed block."""
    merges = merges_per_block(config)
    if "r_per_block" in merges:
        merges["r_per_stage"] = merges.pop("r_per_block")
    shared = {"blocks": config["pp_loc_list"], "threshold": config["threshold"]}
    return {**shared, **merges, "proportional_attention": config["prop_attn"]}


def check(golden: Golden) -> dict[str, float]:
    """The variances that decide are outputs, too."""
    run = run_vit(golden, settings(golden.config))
    policies = golden.part("output.policy").items()
    errors = {f"policy.{block}": difference(run.tokens.notes[f"policy_{block}"], value) for block, value in policies}
    return errors | run_errors(run)
