"""MOCA's golden files: one training step, from two views and the draws to codebook, losses and gradients."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from harness.check.golden.file import Golden, difference
from harness.check.golden.objectives._host import objective_for, output_errors, vit_host
from harness.kit.errors import HarnessError
from harness.objectives.moca import MocaObjective, WordDraws
from harness.objectives.parts.codebook import EPS

SETTINGS = {
    "decoder_width": "decoder_embed_dim",
    "decoder_depth": "decoder_depth",
    "decoder_heads": "decoder_num_heads",
    "words": "num_words",
    "new_words": "num_new_words",
    "border": "skip_offset",
    "sharpness": "inv_delta",
    "kappa": "kappa",
    "hidden_ratio": "pred_mlp_ratio",
    "early": "early_layer",
    "mask_ratios": "mask_ratio",
    "decoder_mask_ratios": "dec_mask_ratio",
    "mean_token": "avg_pooling",
    "image_weight": "img_weight",
    "patch_weight": "loc_weight",
}
MAKER = r"(en|de)coder_pred\."
MAKERS = {"en": "image_words", "de": "patch_words"}
NAMES = (
    (r"encoder\.(.+)", r"host.vision.\1"),
    (r"encoder_teacher\.(.+)", r"teacher.model.\1"),
    (r"norm_cls_pt\.(\w+)", r"early_norm.\1"),
    (r"decoder_embed_cls_pt\.(\w+)", r"decoder.embed.\1"),
    (r"decoder_blocks_cls_pt\.(.+)", r"decoder.blocks.\1"),
    (r"decoder_norm_cls_pt\.(\w+)", r"decoder.norm.\1"),
    (r"mask_token_cls_pt", "decoder.mask_token"),
    (r"decoder_pos_embed", "decoder.positions"),
    (r"(?:bow_extractor\.bow_extractor\.0\._embedding|codebook)", "codebook.words"),
    (r"(?:bow_extractor\.bow_extractor\.0\._embedding_ptr|pointer)", "codebook.pointer"),
    (r"(?:bow_extractor\.bow_extractor\.0\._)?dist_norm", "codebook.spread"),
    (r"(?:bow_extractor\.bow_extractor\.0\._)?dist_norm_prev", "codebook.spread_used"),
    (MAKER + r"layers_w\.0\.generator\.b0_fc\.(\w+)", r"{\1}.first.\2"),
    (MAKER + r"(?:layers_w\.0\.generator\.)?b(?:0_b)?n[._](\w+)", r"{\1}.norm.\2"),
    (MAKER + r"layers_w\.0\.generator\.b0_last_layer\.(\w+)", r"{\1}.last.\2"),
    (MAKER + r"layers_w\.0\.skip\.(\w+)", r"{\1}.skip.\2"),
)
# A count that nothing reads, and kappa, which the config says.
LEFT_OUT = (r"bow_extractor\.bow_extractor\.0\._track_num_batches", MAKER + "scale")


def check(golden: Golden) -> dict[str, float]:
    """Targets, masks, features, logits, losses, everything that the step moves, and gradients."""
    config, given = golden.config, golden.part("input")
    objective = _objective(config)
    own = objective.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, value in golden.part("weight").items():
            if not any(re.fullmatch(pattern, name) for pattern in LEFT_OUT):
                own[_own_name(name)].copy_(value)
    views, noise = torch.cat([given["image1"], given["image2"]]), given["noise"]
    targets = objective.targets(views, config["momentum"], _draws(given))
    rounds = objective.rounds(views, noise if noise.ndim == 2 else torch.cat([*noise], dim=1), targets.words)
    image, patches = objective.image_loss(rounds, targets), objective.patch_loss(rounds, targets)
    loss = config["img_weight"] * image + config["loc_weight"] * patches
    loss.backward()
    ours = {"same_view_codes": targets.codes, "cross_view_bows": targets.bags}
    ours |= {"loss": loss, "loss_img": image, "loss_loc": patches}
    for at, one in enumerate(rounds):
        ours |= {
            f"ids_shuffle_{at}": one.order,
            f"decoder_ids_{at}": one.places,
            f"early_features_{at}": one.early.states,
            f"image_feature_{at}": one.whole,
            f"image_logits_{at}": one.image_logits,
            f"decoder_logits_{at}": one.patch_logits,
        }
    after = {f"after.{name}": own[_own_name(name)] for name in golden.part("output.after")}
    errors = output_errors(golden, ours | after)
    for name, expected in golden.part("grad").items():
        gradient = own[_own_name(name)].grad
        errors[f"grad.{name}"] = difference(torch.zeros_like(expected) if gradient is None else gradient, expected)
    return errors


def _objective(config: dict[str, Any]) -> Any:
    if config["l2_eps"] != EPS:
        raise HarnessError(f"golden of MOCA with l2_eps {config['l2_eps']}: the released program has {EPS}")
    host = vit_host(config)
    host.vision.pos_embed.requires_grad_(False)  # the release's is a fixed table
    objective = objective_for(MocaObjective, host, {ours: config[theirs] for ours, theirs in SETTINGS.items()})
    for maker in (objective.image_words, objective.patch_words):
        maker.norm.eps = config["bn_eps"]
    return objective


def _draws(given: dict[str, Tensor]) -> WordDraws:
    """The file names the tokens in the order of the images that are chosen, ours are of each image."""
    order, tokens = given["new_word_image_order"], given["new_word_inner_token"]
    of_each = torch.zeros_like(order).index_copy(0, order[: len(tokens)], tokens)
    return WordDraws(given["new_word_view"] == 2, of_each, order)


def _own_name(name: str) -> str:
    for pattern, target in NAMES:
        if found := re.fullmatch(pattern, name):
            place = found.expand(target)
            return place.format(**MAKERS)
    raise HarnessError(f"golden tensor {name}: not a tensor of MOCA")
