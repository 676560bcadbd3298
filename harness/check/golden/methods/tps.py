"""TPS's golden files."""

from __future__ import annotations

from typing import Any

from harness.check.golden.file import Golden, difference
from harness.check.golden.vit import run_errors, run_vit
from harness.kit.errors import HarnessError


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """`keep_ratio` to the powers 1, 2, ... of the input's patches stays, or a list of such shares."""
    if config.get("variant", "dTPS") != "dTPS":
        raise HarnessError(f"golden of TPS variant {config['variant']!r}: the released program has dTPS only")
    begin, keep = config["prune_loc"], config["keep_ratio"]
    if not isinstance(keep, list):
        keep = [keep**stage for stage in range(1, len(begin) + 1)]
    return {
        "schedule": {"begin": begin, "keep": keep},
        "temperature": config["temperature"],
        "ratio_weight": config.get("keep_ratio_w", 1.0),
    }


def parameter(name: str) -> str | None:
    return name if name.startswith("score_predictor.") else None


def check(golden: Golden) -> dict[str, float]:
    given, outputs = golden.part("input"), golden.part("output")
    stages = range(len(golden.config["prune_loc"]))
    noise = [given[f"gumbel.{stage}"] for stage in stages] if golden.config.get("mode") == "train" else None
    run = run_vit(golden, settings(golden.config), parameter, gumbel=noise)
    errors, notes = run_errors(run), run.tokens.notes
    for name, ours in (("kept", "kept"), ("keep_decision", "mask")):
        for stage in stages:
            if f"{name}.{stage}" in outputs:
                errors[f"{name}.{stage}"] = difference(notes[f"{ours}_{stage}"], outputs[f"{name}.{stage}"])
    if "ratio_loss" not in outputs:
        return errors
    loss = run.reducer.losses(run.tokens, None)["ratio"]
    return errors | {"ratio_loss": difference(loss, outputs["ratio_loss"])}
