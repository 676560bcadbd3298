"""MCTF's golden files."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from harness.check.golden.file import Golden, difference
from harness.check.golden.vit import run_errors, run_vit
from harness.reduction import Tokens, encode
from harness.reduction.budget import make_reducer

POOLINGS = ("size", "attention", "max", "mean")


def settings(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "r": config["r"],
        "blocks": config["activate_layer"],
        "one_step_ahead": config["one_step_ahead"],
        "proportional_attention": bool(config["prop_attn"]),
        "tau_sim": config["tau_sim"],
        "tau_info": config["tau_info"],
        "tau_size": config["tau_size"],
        "bidirectional": bool(config["bidirection"]),
        "pooling": POOLINGS[config["pooling_type"]],
        "consistency_weight": config.get("task_weight", (1, 1, 3))[2],
    }


def check(golden: Golden) -> dict[str, float]:
    """Every output; in training the second pass of the same weights, which r_teacher reduces, is the teacher."""
    run = run_vit(golden, settings(golden.config))
    errors = run_errors(run)
    if golden.config["mode"] != "train":
        return errors
    reducer: Any = run.reducer
    config, outputs, labels = golden.config, golden.part("output"), run.labels
    drawn = float(golden.part("input")["r_teacher_draw"])
    made = settings(config) | {"r": drawn / 100 if config["r_teacher_max"] < 1 else drawn}
    teacher_reducer = make_reducer("mctf", run.tower.shape, settings=made).double()
    teacher = encode(run.tower, teacher_reducer, golden.part("input")["image"])
    logits_teacher = run.model.head(teacher.states[:, 0])
    errors |= {
        "tokens_teacher": difference(teacher, outputs["tokens_teacher"]),
        "sizes_teacher": difference(_sizes(teacher), outputs["sizes_teacher"]),
        "logits_teacher": difference(logits_teacher, outputs["logits_teacher"]),
        "consistency": difference(reducer.consistency(run.tokens, teacher), outputs["consistency"]),
    }
    student_weight, teacher_weight, _ = config["task_weight"]
    # The program takes images that the student is sure of; what a method is given does not tell which these are.
    sure = torch.where(run.logits.softmax(dim=-1).gather(1, labels[:, None])[:, 0] > config["task_type"][2])[0]
    losses = {
        "loss_student": student_weight * F.cross_entropy(run.logits, labels),
        "loss_teacher": teacher_weight * F.cross_entropy(logits_teacher, labels),
        "loss_consistency": run.reducer.losses(run.tokens.rows(sure), teacher.rows(sure))["consistency"]
        if len(sure)
        else run.logits.sum() * 0,
    }
    losses["loss_total"] = torch.stack(list(losses.values())).sum()
    errors |= {name: difference(value, outputs[name]) for name, value in losses.items()}
    return errors | run.backward(losses["loss_total"], "grad_total")


def _sizes(tokens: Tokens) -> torch.Tensor:
    return tokens.states.new_ones(tokens.states.shape[:2]) if tokens.sizes is None else tokens.sizes
