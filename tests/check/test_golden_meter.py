"""METER computes what the released program computes, and the check notices where it would not."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.check.golden.file import read_golden
from harness.check.golden.meter import check_meter
from harness.check.golden.method import TOLERANCE
from harness.kit.errors import HarnessError

GOLDEN = read_golden(Path(__file__).parent.parent / "goldens" / "meter_infer.safetensors")


def test_every_output_is_the_released_program_s():
    errors = check_meter(GOLDEN)
    assert set(errors) == set(GOLDEN.part("output"))
    assert max(errors.values()) < TOLERANCE


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("elip", {"vision_weight": 0.79}),
        ("elip", {"lookahead_layers": [2, 4, 2]}),
        ("elip", {"keep_tokens": [57, 44, 27]}),
        ("vision", {"activation": "gelu"}),
        ("vision", {"norm_eps": 1e-6}),
        ("roberta", {"layer_norm_eps": 1e-12}),
    ],
)
def test_a_wrong_setting_fails(part, change):
    config = {**GOLDEN.config, part: {**GOLDEN.config[part], **change}}
    assert max(check_meter(replace(GOLDEN, config=config)).values()) > TOLERANCE


@pytest.mark.parametrize(
    ("part", "change"),
    [("vision", {"patch_size": 16}), ("vision", {"blocks": 12}), ("roberta", {"num_hidden_layers": 2})],
)
def test_weights_of_another_size_are_refused(part, change):
    config = {**GOLDEN.config, part: {**GOLDEN.config[part], **change}}
    with pytest.raises(HarnessError, match="not of Meter of this size"):
        check_meter(replace(GOLDEN, config=config))
