"""CLIP's visual tower computes what the released program computes, and the check notices where it would not."""

from dataclasses import replace
from pathlib import Path

import pytest

from harness.check.golden.clip import check_clip, clip_elip
from harness.check.golden.file import read_golden
from harness.check.golden.method import TOLERANCE
from harness.kit.errors import HarnessError

GOLDEN = read_golden(Path(__file__).parent.parent / "goldens" / "clip_visual.safetensors")


def test_every_output_is_the_released_program_s():
    errors = check_clip(GOLDEN)
    assert set(errors) == set(GOLDEN.part("output"))
    assert max(errors.values()) < TOLERANCE


def test_counts_from_the_class_token_too_where_the_file_names_none():
    elip = dict(GOLDEN.config["elip"])
    expected = elip.pop("keep_tokens")
    assert clip_elip(elip, 64)["keep_tokens"] == expected


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("elip", {"vision_weight": 0.79}),
        ("elip", {"lookahead_layers": [2, 5, 2]}),
        ("elip", {"keep_tokens": [57, 41, 25]}),
        ("vision", {"activation": "quick_gelu"}),
        ("vision", {"heads": 2}),
    ],
)
def test_a_wrong_setting_fails(part, change):
    config = {**GOLDEN.config, part: {**GOLDEN.config[part], **change}}
    assert max(check_clip(replace(GOLDEN, config=config)).values()) > TOLERANCE


@pytest.mark.parametrize("change", [{"layers": 11}, {"layers": 13}, {"patch_size": 16}, {"output_dim": 24}])
def test_weights_of_another_size_are_refused(change):
    elip = {**GOLDEN.config["elip"], "begin_layers": [2, 4, 8]}
    config = {**GOLDEN.config, "elip": elip, "vision": {**GOLDEN.config["vision"], **change}}
    with pytest.raises(HarnessError, match="not of Clip of this size"):
        check_clip(replace(GOLDEN, config=config))
