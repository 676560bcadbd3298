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
    ours = {
        "tokens_teacher": teacher.states,
        "sizes_teacher": _sizes(teacher),
        "logits_teacher": logits_teacher,
        "consistency": reducer.consistency(run.tokens, teacher),
    }
    student_weight, teacher_weight, _ = config["task_weight"]
    # Of the three losses a zero switches one off; the last is of the images that the student is sure enough of, which
    # what a method is given does not tell.
    student, of_teacher, surer_than = config["task_type"]
    sure = torch.where(run.logits.softmax(dim=-1).gather(1, labels[:, None])[:, 0] > surer_than)[0]
    none = run.logits.sum() * 0
    losses = {
        "loss_student": student_weight * F.cross_entropy(run.logits, labels) if student else none,
        "loss_teacher": teacher_weight * F.cross_entropy(logits_teacher, labels) if of_teacher else none,
        "loss_consistency": run.reducer.losses(run.tokens.rows(sure), teacher.rows(sure))["consistency"]
        if surer_than and len(sure)
        else none,
    }
    losses["loss_total"] = torch.stack(list(losses.values())).sum()
    ours |= losses
    # What a loss that is off would need is not in the file.
    errors |= {name: difference(value, outputs[name]) for name, value in ours.items() if name in outputs}
    return errors | run.backward(losses["loss_total"], "grad_total")


def _sizes(tokens: Tokens) -> torch.Tensor:
    return tokens.states.new_ones(tokens.states.shape[:2]) if tokens.sizes is None else tokens.sizes
