"""ALBEF's reference vectors: both encoders, fusion, the heads, and one pre-training step with momentum and queue."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.check.golden.file import Golden, difference, elip_settings, host_sizes
from harness.hosts.albef.model import Albef, AlbefConfig
from harness.hosts.parts.tokenizer import Specials
from harness.hosts.parts.towers import open_tower
from harness.hosts.weights.released import load_released
from harness.kit.errors import HarnessError
from harness.objectives.albef import AlbefObjective
from harness.objectives.parts.objective import Pairs
from harness.objectives.parts.recipe import recipe_of
from harness.reduction import TokenReducer, Tokens, encode
from harness.reduction.budget import make_reducer


def albef_config(config: dict[str, Any]) -> AlbefConfig:
    """The sizes of a golden file's model."""
    bert = config["bert"]
    return AlbefConfig(
        text_layers=config["fusion_layer"],
        fusion_layers=bert["num_hidden_layers"] - config["fusion_layer"],
        token_types=bert["type_vocab_size"],
        **host_sizes(config, "bert"),
    )


def check_albef(golden: Golden) -> dict[str, float]:
    """Largest absolute error of each output."""
    config, inputs, outputs = golden.config, golden.part("input"), golden.part("output")
    model = Albef(albef_config(config)).double().eval()
    load_released(model, golden.part("weight"), golden.path.name)
    errors: dict[str, float] = {}

    def compare(name: str, ours: Tensor | Tokens) -> None:
        errors[name] = difference(ours, outputs[name])

    with torch.no_grad():
        tower = open_tower(model.vision)
        reducer = make_reducer("elip", tower.shape, settings=elip_settings(config["elip"]))
        texts = model.text_batch(inputs["input_ids"], inputs["attention_mask"].bool())
        dense = model.encode_image(inputs["image"])
        reduced = encode(tower, reducer, inputs["image"], model.guide(texts))
        fused = model.fuse(texts.tokens, reduced)
        compare("text_embeds", texts.states)
        compare("image_embeds_dense", dense)
        compare("image_embeds_elip", reduced)
        compare("image_feat", model.embed_image(reduced))
        compare("text_feat", model.embed_text(texts))
        compare("fusion_positive", fused)
        compare("itm_logits_positive", model.match_logits(fused))
        masked = model.encode_text(outputs["mlm_input_ids"], texts.mask)
        compare("mlm_logits", model.mlm_logits(model.fuse(masked, reduced).states))
        objective = _objective(model, reducer, config)
        objective.load_released_state(golden.part("weight"))
        twin = objective.twin.model
        objective.twin.follow(model, config["momentum"])
        for name, expected in golden.part("output.momentum_after").items():
            ours = twin.get_parameter(_student_name(model, name))
            errors[f"momentum_after.{name}"] = difference(ours, expected)
        texts_m, images_m = twin.text_batch(texts.ids, texts.mask), twin.encode_image(inputs["image"])
        features_m = twin.embed_image(images_m), twin.embed_text(texts_m)
        pairs = Pairs(inputs["image"], texts.ids, texts.mask, torch.arange(len(texts.ids)))
        contrast, _ = objective.contrast((reduced, texts), features_m, config["alpha"], pairs)
        compare("loss_ita", contrast.view(1))
        compare("queue_after.image", objective.image_queue.columns)
        compare("queue_after.text", objective.text_queue.columns)
        words = objective.masked_words(
            outputs["mlm_input_ids"], outputs["mlm_labels"], texts.mask, (reduced, images_m), config["alpha"]
        )
        compare("loss_mlm_fixed_mask_after_momentum_update", words.view(1))
    return errors


def _objective(model: Albef, reducer: TokenReducer[Any], config: dict[str, Any]) -> AlbefObjective:
    specials = Specials(pad=config["bert"]["pad_token_id"], begin=-1, end=-1, mask=None, unknown=-1)
    recipe = recipe_of("albef-tiny", {"queue_size": config["queue_size"], "momentum": config["momentum"]})
    return AlbefObjective(model, reducer, specials, recipe).double()


def _student_name(model: Albef, name: str) -> str:
    """The parameter that a tensor of the momentum twin corresponds to."""
    target = model.released(name.replace("_m.", ".", 1))
    if not isinstance(target, str):
        raise HarnessError(f"golden output momentum_after.{name}: not a tensor of the momentum twin")
    return target
