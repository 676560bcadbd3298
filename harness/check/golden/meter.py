"""METER's reference vectors: co-attention over reduced image tokens and the heads that read it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.check.golden.file import AS_READ, Golden, difference, elip_settings
from harness.hosts.meter.model import Meter, MeterConfig
from harness.hosts.parts.towers import open_tower
from harness.hosts.weights.released import load_released
from harness.reduction import Tokens, encode
from harness.reduction.budget import make_reducer


def meter_config(config: dict[str, Any], weights: dict[str, Tensor]) -> MeterConfig:
    """The sizes of a golden file's model; its config leaves the heads' to the weights."""
    vision, roberta = config["vision"], config["roberta"]
    return MeterConfig(
        image_size=vision["img_size"],
        patch_size=vision["patch_size"],
        width=vision["width"],
        depth=vision["blocks"],
        heads=vision["heads"],
        mlp_ratio=weights["vit_model.visual.transformer.resblocks.0.mlp.c_fc.bias"].numel() // vision["width"],
        vision_eps=vision["norm_eps"],
        activation=vision["activation"],
        vocab_size=roberta["vocab_size"],
        text_length=roberta["max_position_embeddings"] - roberta["pad_token_id"] - 1,
        padding_id=roberta["pad_token_id"],
        token_types=roberta["type_vocab_size"],
        text_layers=roberta["num_hidden_layers"],
        text_heads=roberta["num_attention_heads"],
        text_mlp=roberta["intermediate_size"],
        text_eps=roberta["layer_norm_eps"],
        fusion_layers=config["cross_modal_layers"],
        fusion_mlp=weights["cross_modal_text_layers.0.intermediate.dense.bias"].numel(),
        fusion_eps=config["cross_modal_norm_eps"],
        answer_classes=weights["vqa_classifier.3.bias"].numel(),
        **AS_READ,
    )


def check_meter(golden: Golden) -> dict[str, float]:
    """Largest absolute error of each output."""
    config, inputs, weights = golden.config, golden.part("input"), golden.part("weight")
    model = Meter(meter_config(config, weights)).double().eval()
    load_released(model, weights, golden.path.name)
    with torch.no_grad():
        tower = open_tower(model.vision)
        reducer = make_reducer("elip", tower.shape, settings=elip_settings(config["elip"]))
        texts = model.text_batch(inputs["input_ids"], inputs["attention_mask"].bool())
        found = model.co_attend(texts, encode(tower, reducer, inputs["image"], model.guide(texts)))
        ours: dict[str, Tensor | Tokens] = {
            "text_feats": found.text,
            "image_feats": found.image,
            "cls_feats": found.cls,
            "itm_logits": model.match_logits(found.cls),
            "mlm_logits": model.mlm_logits(found.text.states),
            "vqa_logits": model.answer_logits(found.cls),
            "snli_logits": model.entailment_logits(found.cls),
        }
    return {name: difference(ours[name], expected) for name, expected in golden.part("output").items()}
