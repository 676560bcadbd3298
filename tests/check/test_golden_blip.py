"""BLIP computes what the authors' released program computes, output by output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from harness.check.golden.blip import blip_config, check_blip
from harness.check.golden.file import Golden, read_golden
from harness.check.golden.method import TOLERANCE
from harness.kit.errors import HarnessError

PATH = Path(__file__).parent.parent / "goldens" / "blip_pretrain.safetensors"
INPUTS = {"encoder_input_ids", "decoder_input_ids", "decoder_labels"}


@pytest.fixture
def golden() -> Golden:
    return read_golden(PATH)


def test_every_output_is_compared_and_equal(golden):
    errors = check_blip(golden)
    assert set(errors) == set(golden.part("output")) - INPUTS
    assert max(errors.values()) < TOLERANCE


@pytest.mark.parametrize(
    ("change", "differing"),
    [
        (lambda config, _: config["elip"].update(vision_weight=0.5), "image_embeds_elip"),
        (lambda config, _: config["elip"].update(keep_ratios=[0.9, 0.65, 0.5]), "image_embeds_elip"),
        (lambda config, _: config.update(label_smoothing=0.2), "loss_lm"),
        (lambda config, _: config["special_tokens"].update(enc=6), "fusion_states"),
        (lambda config, _: config["vision"].update(norm_eps=1e-5), "image_embeds_dense"),
        (lambda _, tensors: tensors["output.decoder_labels"][0, 4].fill_(9), "loss_lm"),
        (lambda _, tensors: tensors["weight.itm_head.bias"].add_(1e-7), "itm_logits"),
        (lambda _, tensors: tensors["weight.text_proj.weight"].mul_(1.001), "text_feat"),
    ],
)
def test_a_wrong_setting_or_weight_is_found(
    golden, change: Callable[[dict[str, Any], dict[str, Tensor]], None], differing: str
):
    change(golden.config, golden.tensors)
    assert check_blip(golden)[differing] > TOLERANCE


def test_a_decoder_that_does_not_share_is_refused(golden):
    golden.tensors["weight.text_decoder.bert.encoder.layer.2.output.dense.bias"].add_(1)
    with pytest.raises(
        HarnessError, match=r"layer\.2\.output\.dense\.bias differs from encoder\.2\.output\.dense\.bias"
    ):
        check_blip(golden)


def test_another_text_width_is_refused(golden):
    golden.config["med"]["hidden_size"] = 48
    with pytest.raises(HarnessError, match="text width 48, expected the ViT's 24"):
        blip_config(golden.config)
