"""DynamicViT's golden files."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from harness.check.golden.file import Golden, difference, divisor
from harness.check.golden.vit import Run, run_errors, run_vit
from harness.reduction import Tokens

WEIGHTS = ("ratio_weight", "distill_weight")


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """`token_ratio` is of the input's patches; without it `base_rate` to the powers 1, 2, ... stays."""
    begin = config["pruning_loc"]
    keep = config.get("token_ratio") or [config["base_rate"] ** stage for stage in range(1, len(begin) + 1)]
    weights: dict[str, Any] = {name: divisor(config[name]) for name in WEIGHTS if name in config}
    return {
        "schedule": {"begin": begin, "keep": keep},
        **weights,
        **{name: config[name] for name in ("mse_token",) if name in config},
    }


def parameter(name: str) -> str | None:
    return name if name.startswith("score_predictor.") else None


def check(golden: Golden) -> dict[str, float]:
    """Every output; the divergence between class predictions is here, as it is a loss of the task's."""
    noise = golden.part("input").get("gumbel")
    run = run_vit(golden, settings(golden.config), parameter, gumbel=noise)
    errors, outputs = run_errors(run), golden.part("output")
    if "masks" not in outputs:
        return errors | _kept_errors(run)
    masks = torch.stack([run.tokens.notes[f"mask_{stage}"] for stage in range(len(outputs["masks"]))])
    losses = _losses(run)
    errors |= {name: difference(losses[name], value) for name, value in outputs.items() if name in losses}
    errors["masks"] = difference(masks, outputs["masks"])
    return errors | run.backward(losses["loss_total"], "grad_total")


def _kept_errors(run: Run) -> dict[str, float]:
    """Kept tokens are named by their places in the image."""
    errors = {}
    reducer: Any = run.reducer
    for block, (stage, _) in reducer.stages.items():
        expected, origin = run.golden.part("output")[f"kept_{stage}"], run.trace.origins[block]
        rows, patches = torch.where(origin >= 0)
        kept = origin.new_full((len(origin), int(origin.max()) + 1), -1)
        kept[rows, origin[rows, patches]] = patches
        errors[f"kept_{stage}"] = difference(kept, expected)
    return errors


def _losses(run: Run) -> dict[str, torch.Tensor]:
    config, given = run.golden.config, run.golden.part("input")
    teacher = Tokens(F.pad(given["teacher_tokens"], (0, 0, 1, 0)))
    own = run.reducer.losses(run.tokens, teacher)
    stages, ratio_weight, distill_weight = len(config["pruning_loc"]), config["ratio_weight"], config["distill_weight"]
    found = {
        "loss_cls": F.cross_entropy(run.logits, run.labels),
        "loss_cls_kl": F.kl_div(
            run.logits.log_softmax(dim=-1),
            given["teacher_logits"].log_softmax(dim=-1),
            log_target=True,
            reduction="batchmean",
        ),
        "loss_ratio": own["ratio"] * stages / divisor(ratio_weight),
        "loss_token": own["token"] / divisor(distill_weight),
    }
    total = config["clf_weight"] * found["loss_cls"] + distill_weight * found["loss_cls_kl"]
    total = total + ratio_weight * found["loss_ratio"] / stages + distill_weight * found["loss_token"]
    return found | {"loss_total": total}
