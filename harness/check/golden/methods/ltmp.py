"""LTMP's golden files."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from harness.check.golden.file import Golden, difference, divisor
from harness.check.golden.vit import Run, run_errors, run_vit, source_of


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The thresholds are among the weights."""
    found = {"tau": config["tau"]}
    if config["mode"] == "train":
        found |= {"reduction_target": config["reduction_target"], "flops_weight": divisor(config["reg_scale"])}
    return found


def parameter(name: str) -> str | None:
    """`blocks.I.merge_masker.threshold` is `merge.I`."""
    if not name.endswith("_masker.threshold"):
        return None
    _, block, kind, _ = name.split(".")
    return f"{kind.removesuffix('_masker')}.{block}"


def check(golden: Golden) -> dict[str, float]:
    run = run_vit(golden, settings(golden.config), parameter)
    return _evaluated(run) if golden.config["mode"] != "train" else _trained(run)


def _evaluated(run: Run) -> dict[str, float]:
    """Counts differ between images; the file ran each one alone, here they are a batch."""
    tokens, outputs = run.tokens, run.golden.part("output")
    errors = {"logits": difference(run.logits, outputs["logits"])}
    errors["counts"] = difference(torch.stack([mlp for _, mlp in run.trace.standing], dim=1), outputs["counts"])
    squares = tokens.states.new_zeros(())
    assert tokens.sizes is not None
    for image, here in enumerate(tokens.standing):
        states = tokens.states[image : image + 1, here]
        errors[f"tokens_{image}"] = difference(states, outputs[f"tokens_{image}"])
        errors[f"sizes_{image}"] = difference(tokens.sizes[image : image + 1, here], outputs[f"sizes_{image}"])
        squares = squares + states.square().mean()
    return errors | run.backward(squares, "grad")


def _trained(run: Run) -> dict[str, float]:
    config, outputs, reducer = run.golden.config, run.golden.part("output"), run.reducer
    own: Any = reducer
    masks = torch.stack([run.tokens.notes[f"mask_{block}"] for block in range(config["depth"])])
    errors = {"masks": difference(masks, outputs["masks"])}
    # A token that merged keeps its own row in the file, while what it held lives in its destination.
    ours = source_of(run.tokens)
    holds = ours.any(dim=2)
    errors["held"] = difference(ours[holds], outputs["source"][holds])
    flops = reducer.losses(run.tokens, None)["flops"]
    found = {
        "flops_ratio": own.flops_ratio(run.tokens),
        "loss_flops": flops / divisor(config["reg_scale"]),
        "loss_cls": F.cross_entropy(run.logits, run.labels),
    }
    found["loss_total"] = config["cls_scale"] * found["loss_cls"] + config["reg_scale"] * found["loss_flops"]
    errors |= {name: difference(value, outputs[name]) for name, value in found.items()}
    errors |= run.backward(found["loss_total"], "grad_total")
    return errors | run_errors(run, leave=("source",))
