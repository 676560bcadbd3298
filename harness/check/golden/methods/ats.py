"""ATS's golden files, of the authors' program and of TokenReduction."""

from __future__ import annotations

from typing import Any

import torch

from harness.check.golden.file import Golden, difference, patches_of, staged_settings
from harness.check.golden.vit import check_vit, run_vit


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The authors' program says its blocks, the other one rates, or K for K - 1 samples."""
    if config["variant"] == "authors":
        begin = config["ats_blocks"]
        schedule = {"begin": begin, "keep": [1.0] * len(begin)}
        return {"schedule": schedule, "drop_tokens": config["drop_tokens"], "as_in_a_batch": True}
    staged = staged_settings(config)
    listed = staged.pop("keep_tokens", None)
    shares = staged["schedule"]["keep"]
    # A schedule leaves a token at least, the program none.
    counts = (
        [int(patches_of(config) * share) for share in shares] if listed is None else [count - 1 for count in listed]
    )
    return {"program": "token_reduction", "sample_counts": counts, "as_in_a_batch": True, **staged}


def check(golden: Golden) -> dict[str, float]:
    """Padding of the authors' program is zeros before the last norm, and so its bias after it."""
    if golden.config["variant"] != "authors":
        return check_vit(golden, settings(golden.config))
    run = run_vit(golden, settings(golden.config))
    standing, outputs = run.tokens.standing, golden.part("output")
    states = torch.where(standing.unsqueeze(-1), run.tokens.states, run.model.norm.bias)
    errors = {"tokens": difference(states, outputs["tokens"]), "mask": difference(standing.long(), outputs["mask"])}
    for block, counts in golden.part("output.counts").items():
        errors[f"counts.{block}"] = difference(run.trace.standing[int(block)][1], counts)
    states.square().mean().backward()
    return errors | run.gradient_errors("grad")
