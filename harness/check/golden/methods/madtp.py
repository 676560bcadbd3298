"""MADTP's golden files: the ViT of BLIP, with the alignment loss against the features of a text side."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch

from harness.check.golden.file import Golden, difference
from harness.check.golden.vit import run_vit


def settings(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "temperature": config["temperature"],
        "alignment_tokens": config["sd_num"],
        "alignment_width": config["sd_dim"],
        "mapped": config["map_func"],
        "by_batch": True,
    }


def parameter(name: str) -> str | None:
    mapped = re.fullmatch(r"(?:.+\.)?q_map\.0\.(weight|bias)", name)
    return f"maps.vision.{mapped[1]}" if mapped else {"space_dict": "alignment"}.get(name)


def check(golden: Golden) -> dict[str, float]:
    """Tokens, tokens per block, the alignment's features and loss, and the gradients of their sum."""
    run = run_vit(golden, settings(golden.config), parameter, training=True)
    method, outputs, tokens = run.reducer, golden.part("output"), run.tokens
    notes = {**tokens.notes, "madtp_text_aligned": golden.part("input")["text_alignment_feature"]}
    weighted = method.losses(replace(tokens, notes=notes), None)["alignment"]
    loss = tokens.states.square().mean() + weighted
    loss.backward()
    ours = {
        "tokens": tokens.states,
        "alignment_feature": tokens.notes["madtp_aligned"],
        "loss_alignment": weighted / method.config.loss_weight,
        "loss": loss,
        "tokens_per_block": torch.tensor(run.trace.mlp, dtype=torch.float64),
    }
    errors = {name: difference(ours[name].reshape(value.shape), value) for name, value in outputs.items()}
    return errors | run.gradient_errors("grad")
