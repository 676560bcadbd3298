"""DiffRate's golden files."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional as F

from harness.check.golden.file import Golden, difference, divisor, patches_of
from harness.check.golden.vit import Run, run_errors, run_vit


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """Multiply-adds outside the blocks are the patch embedding's and the classifier's."""
    embedding = (patches_of(config) + 1) * config["embed_dim"] * 3 * config["patch_size"] ** 2
    other = {"other_flops": embedding + config["embed_dim"] * config["num_classes"]}
    if config["mode"] != "train":
        return other | {"prune_kept": config["prune_kept_num"], "merge_kept": config["merge_kept_num"]}
    return other | {
        "granularity": config["granularity"],
        "flops_unit": config["flops_unit"],
        "target_flops": config["target_flops"],
        "flops_weight": divisor(config["lambda"]),
    }


def parameter(name: str) -> str | None:
    """`blocks.I.prune_ddp.selected_probability` is `prune.logits.(I - 1)`."""
    if not name.endswith("selected_probability"):
        return None
    _, block, kind, _ = name.split(".")
    return f"{kind.removesuffix('_ddp')}.logits.{int(block) - 1}"


def check(golden: Golden) -> dict[str, float]:
    """Every output; in training tokens and sizes are of the live tokens, which stand first."""
    # The first block has one candidate, and nothing to learn.
    tensors = {
        name: value for name, value in golden.tensors.items() if not name.startswith("weight.blocks.0.prune_ddp")
    }
    tensors = {name: value for name, value in tensors.items() if not name.startswith("weight.blocks.0.merge_ddp")}
    run = run_vit(replace(golden, tensors=tensors), settings(golden.config), parameter)
    reducer: Any = run.reducer
    errors, outputs = {}, golden.part("output")
    flops = reducer.double().flops()
    if golden.config["mode"] == "train":
        live = int(run.tokens.standing[0].sum())
        sizes = None if run.tokens.sizes is None else run.tokens.sizes[:, :live]
        run.tokens = replace(run.tokens, states=run.tokens.states[:, :live], sizes=sizes, mask=None)
        errors = _counts(run) | _losses(run)
    return errors | {"flops": difference(flops, outputs["flops"])} | run_errors(run)


def _counts(run: Run) -> dict[str, float]:
    reducer: Any = run.reducer
    outputs, blocks = run.golden.part("output"), range(run.golden.config["depth"])
    found = {
        "prune_kept_num": torch.stack([reducer.prune.count(block) for block in blocks]),
        "merge_kept_num": torch.stack([reducer.merge.count(block) for block in blocks]),
        "live_counts": torch.stack([standing[0] for _, standing in run.trace.standing]),
    }
    return {name: difference(value, outputs[name]) for name, value in found.items()}


def _losses(run: Run) -> dict[str, float]:
    config, outputs = run.golden.config, run.golden.part("output")
    own = run.reducer.losses(run.tokens, None)["flops"]
    found = {"loss_flops": own / divisor(config["lambda"]), "loss_cls": F.cross_entropy(run.logits, run.labels)}
    found["loss_total"] = config["lambda"] * found["loss_flops"] + found["loss_cls"]
    errors = {name: difference(value, outputs[name]) for name, value in found.items()}
    return errors | run.backward(found["loss_flops"], "grad_flops") | run.backward(found["loss_total"], "grad_total")
