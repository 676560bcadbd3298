"""BLIP's reference vectors: text encoder, vision tower, image-grounded encoder and decoder, and the heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.check.golden.file import Golden, difference, elip_settings, host_sizes
from harness.hosts.blip.model import Blip
from harness.hosts.blip.text import BlipConfig
from harness.hosts.parts.towers import open_tower
from harness.hosts.weights.released import load_released
from harness.kit.errors import HarnessError
from harness.reduction import Tokens, encode
from harness.reduction.budget import make_reducer


def blip_config(config: dict[str, Any]) -> BlipConfig:
    """The sizes of a golden file's model; HarnessError where text and vision differ in width."""
    vision, med, special = config["vision"], config["med"], config["special_tokens"]
    if vision["embed_dim"] != med["hidden_size"]:
        raise HarnessError(f"BLIP golden: text width {med['hidden_size']}, expected the ViT's {vision['embed_dim']}")
    return BlipConfig(
        **host_sizes(config, "med"),
        text_layers=med["num_hidden_layers"],
        pad_id=special["pad"],
        cls_id=special["cls"],
        sep_id=special["sep"],
        dec_id=special["dec"],
        enc_id=special["enc"],
    )


def check_blip(golden: Golden) -> dict[str, float]:
    """Largest absolute error of each output."""
    config, inputs, outputs = golden.config, golden.part("input"), golden.part("output")
    model = Blip(blip_config(config)).double().eval()
    load_released(model, golden.part("weight"), golden.path.name)
    errors: dict[str, float] = {}

    def compare(name: str, ours: Tensor | Tokens) -> None:
        errors[name] = difference(ours, outputs[name])

    with torch.no_grad():
        tower = open_tower(model.vision)
        reducer = make_reducer("elip", tower.shape, settings=elip_settings(config["elip"]))
        texts = model.text_batch(inputs["input_ids"], inputs["attention_mask"].bool())
        reduced = encode(tower, reducer, inputs["image"], model.guide(texts))
        grounded = model.ground(outputs["encoder_input_ids"], texts.mask, reduced)
        written, labels = outputs["decoder_input_ids"], outputs["decoder_labels"]
        total, count = model.lm_loss_sum(written, texts.mask, reduced, labels, smoothing=config["label_smoothing"])
        compare("text_embeds", texts.states)
        compare("image_embeds_dense", model.encode_image(inputs["image"]))
        compare("image_embeds_elip", reduced)
        compare("image_feat", model.embed_image(reduced))
        compare("text_feat", model.embed_text(texts))
        compare("fusion_states", grounded)
        compare("itm_logits", model.match_logits(grounded))
        compare("lm_logits", model.decode(written, texts.mask, reduced))
        compare("loss_lm", (total / count).view_as(outputs["loss_lm"]))
    return errors
