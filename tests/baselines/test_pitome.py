"""PiToMe: counts, energies that can be computed by hand, and its variants."""

import pytest
import torch

from baselines.pitome import PiToMe, PiToMeConfig
from harness.kit.errors import HarnessError
from harness.reduction import StackShape
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts

SHAPE = StackShape(depth=12, patches=196, prefix=1, width=8, class_token=True)


def made(**settings):
    return make_reducer("pitome", SHAPE, settings=settings)


def test_the_ratio_counts_patches_in_every_block():
    counts = token_counts(made(ratio=0.9125)).mlp
    expected, patches = [], 196
    for _ in range(12):
        patches -= int(patches - patches * 0.9125)
        expected.append(patches + 1)
    assert counts == expected


def test_blips_list_of_ratios_is_read_from_its_end():
    released = token_counts(made(variant="blip", ratio=0.9)).mlp
    meant = token_counts(made(variant="blip", ratio=0.9, ratios_from_end=False)).mlp
    assert released[0] < 197
    assert released[-1] == released[-2]
    assert meant[0] == 197
    assert meant[-1] == released[-1]


def test_alike_tokens_merge_and_rare_ones_are_protected():
    angles = torch.tensor([[0.0, 0.01, 2.0, 0.02, 0.03, 4.0]])
    unit = torch.stack([angles.cos(), angles.sin()], dim=-1)
    reducer = PiToMe(PiToMeConfig(variant="blip"), StackShape(12, 6, 1, 2, True))
    source, into, rest = reducer.match(0, unit @ unit.transpose(1, 2), 2)
    assert set(source[0].tolist()) | set(into[0].tolist()) <= {0, 1, 3, 4}
    assert set(rest[0].tolist()) >= {2, 5}
    assert rest[0, :2].tolist() == sorted([2, 5], key=lambda i: -float((unit @ unit.transpose(1, 2))[0, i].sum()))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"margins": [0.5]}, "margins has 1"), ({"ratio": 0}, "ratio"), ({"variant": "clip2"}, "variant")],
)
def test_bad_settings(settings, reason):
    with pytest.raises(HarnessError, match=reason) as error:
        made(**settings)
    assert "\n" not in str(error.value)
