"""MAE's golden files: one masked pass, from images and noise to the loss and its gradients."""

from __future__ import annotations

import re

import torch

from harness.check.golden.file import Golden, difference
from harness.check.golden.objectives._host import objective_for, output_errors, vit_host
from harness.kit.errors import HarnessError
from harness.objectives.mae import MaeObjective

NAMES = (
    (r"decoder_embed\.(\w+)", r"decoder.embed.\1"),
    (r"decoder_blocks\.(.+)", r"decoder.blocks.\1"),
    (r"decoder_norm\.(\w+)", r"decoder.norm.\1"),
    (r"decoder_pred\.(\w+)", r"pixels.\1"),
    (r"decoder_pos_embed", "decoder.positions"),
    (r"mask_token", "decoder.mask_token"),
    (r"((blocks|patch_embed|norm)\..+|cls_token|pos_embed)", r"host.vision.\1"),
)


def check(golden: Golden) -> dict[str, float]:
    """Tokens, order, mask, prediction, targets before they are normalised, loss, and gradients."""
    config, given = golden.config, golden.part("input")
    settings = {
        "mask_ratio": config["mask_ratio"],
        "norm_pixels": config["norm_pix_loss"],
        "decoder_width": config["decoder_embed_dim"],
        "decoder_depth": config["decoder_depth"],
        "decoder_heads": config["decoder_num_heads"],
    }
    objective = objective_for(MaeObjective, vit_host(config), settings)
    own = objective.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, value in golden.part("weight").items():
            own[_own_name(name)].copy_(value)
    found = objective.masked_pixels(given["image"], given["noise"])
    found.loss.backward()
    ours = {
        "tokens": found.tokens.states,
        "prediction": found.prediction,
        "target_patches": found.target,
        "mask": found.hidden.long(),
        "ids_restore": given["noise"].argsort(dim=1).argsort(dim=1),
        "loss": found.loss,
    }
    errors = output_errors(golden, ours)
    for name, expected in golden.part("grad").items():
        gradient = own[_own_name(name)].grad
        errors[f"grad.{name}"] = difference(torch.zeros_like(expected) if gradient is None else gradient, expected)
    return errors


def _own_name(name: str) -> str:
    for pattern, target in NAMES:
        if found := re.fullmatch(pattern, name):
            return found.expand(target)
    raise HarnessError(f"golden tensor {name}: not a parameter of MAE")
