"""TRIPS: the text's query against the block's keys, counts as stated, and what it costs."""

import pytest
import torch

from harness.check.method import small_vit
from harness.cost.report import cost_report
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import Guide, Tokens, Trace, encode
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts


def encoded(settings, guide, trace=None) -> Tokens:
    tower = open_tower(small_vit())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return encode(tower, make_reducer("trips", tower.shape, settings=settings), images, guide, trace)


def test_without_a_text_it_keeps_everything():
    assert encoded({}, None).states.shape[1] == 65


def test_it_keeps_what_the_text_attends_to():
    """The kept patches of block 0 are those of the largest softmax of the text's query over the patches' keys."""
    vit = small_vit()
    tower = open_tower(vit)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    text = torch.randn(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    trace = Trace(origins_wanted=True)
    reducer = make_reducer("trips", tower.shape, settings={"blocks": [0], "keep_rate": 0.25})
    with torch.no_grad():
        encode(tower, reducer, images, Guide(text), trace)
        embedded = tower.open(images).tokens
        keys = tower.query_and_keys(0, embedded)[1][:, :, 1:]
        query = tower.query_and_keys(0, text[:, None])[0]
        score = (query @ keys.transpose(-2, -1) / 8**0.5).softmax(-1).mean(1)[:, 0]
    for row in range(2):
        expected = set(score[row].topk(16).indices.tolist())
        assert {patch for patch in range(64) if int(trace.origins[0][row, patch]) < 16} == expected
    assert trace.mlp == [18] * 12


def test_counts_are_of_the_current_tokens():
    reducer = make_reducer("trips", open_tower(small_vit()).shape)
    # ceil(.7 * 64) = 45 and one fused; ceil(.7 * 46) = 33 and one fused; the class token beside.
    assert token_counts(reducer).mlp == [65] * 5 + [47] * 5 + [35] * 2


def test_scoring_is_the_text_s_query_and_one_row():
    cost = cost_report("vit_tiny_patch16_224", "trips")
    counts = (196, 139)  # ceil(.7 * 196) + 1 at the second
    # transformers and timm towers make the key of the text beside its query.
    assert cost["forward"]["scoring_gmacs"] == pytest.approx((2 * 2 * 192 * 192 + sum(counts) * 192) / 1e9)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"keep_rate": 0}, "keep_rate"), ({"blocks": [12]}, "begin block 12"), ({"blocks": [5, 5]}, "increasing order")],
)
def test_bad_settings_are_refused_in_one_line(settings, reason):
    with pytest.raises(HarnessError, match=reason) as refusal:
        make_reducer("trips", open_tower(small_vit()).shape, settings=settings)
    assert "\n" not in str(refusal.value)
