"""BLIP's reference vectors: text encoder, vision tower, image-grounded encoder and decoder, and the heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.check.golden_file import Golden, difference, elip_settings
from harness.errors import HarnessError
from harness.methods import make_reducer
from harness.models.blip import Blip, BlipConfig
from harness.models.released import load_released
from harness.models.towers import open_tower
from harness.reduction import encode


def blip_config(config: dict[str, Any]) -> BlipConfig:
    """The sizes of a golden file's model; HarnessError where text and vision differ in width."""
    vision, med, special = config["vision"], config["med"], config["special_tokens"]
    if vision["embed_dim"] != med["hidden_size"]:
        raise HarnessError(f"BLIP golden: text width {med['hidden_size']}, expected the ViT's {vision['embed_dim']}")
    return BlipConfig(
        image_size=vision["img_size"],
        patch_size=vision["patch_size"],
        width=vision["embed_dim"],
        depth=vision["depth"],
        heads=vision["num_heads"],
        mlp_ratio=vision["mlp_ratio"],
        vision_eps=vision["norm_eps"],
        vocab_size=med["vocab_size"],
        text_length=med["max_position_embeddings"],
        text_layers=med["num_hidden_layers"],
        text_heads=med["num_attention_heads"],
        text_mlp=med["intermediate_size"],
        text_eps=med["layer_norm_eps"],
        projection=config["projection_dim"],
        pad_id=special["pad"],
        cls_id=special["cls"],
        sep_id=special["sep"],
        dec_id=special["dec"],
        enc_id=special["enc"],
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def check_blip(golden: Golden) -> dict[str, float]:
    """Largest absolute error of each output."""
    config, inputs, outputs = golden.config, golden.part("input"), golden.part("output")
    model = Blip(blip_config(config)).double().eval()
    load_released(model, golden.part("weight"), golden.path.name)
    errors: dict[str, float] = {}

    def compare(name: str, ours: Tensor) -> None:
        errors[name] = difference(ours, outputs[name])

    with torch.no_grad():
        tower = open_tower(model.vision)
        reducer = make_reducer("elip", tower.shape, settings=elip_settings(config["elip"]))
        texts = model.text_batch(inputs["input_ids"], inputs["attention_mask"].bool())
        reduced = encode(tower, reducer, inputs["image"], model.guide(texts))
        grounded = model.ground(outputs["encoder_input_ids"], texts.mask, reduced)
        written, labels = outputs["decoder_input_ids"], outputs["decoder_labels"]
        loss = model.lm_loss(written, texts.mask, reduced, labels, smoothing=config["label_smoothing"])
        compare("text_embeds", texts.states)
        compare("image_embeds_dense", model.encode_image(inputs["image"]))
        compare("image_embeds_elip", reduced)
        compare("image_feat", model.embed_image(reduced))
        compare("text_feat", model.embed_text(texts))
        compare("fusion_states", grounded)
        compare("itm_logits", model.match_logits(grounded))
        compare("lm_logits", model.decode(written, texts.mask, reduced))
        compare("loss_lm", loss.view_as(outputs["loss_lm"]))
    return errors
