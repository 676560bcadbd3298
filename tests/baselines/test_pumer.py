"""PuMer: counts as the program's, the text first, padding without part, and where it is refused."""

import pytest
import torch

from harness.cost.host import host_parts
from harness.hosts.build import build_host
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import TokenState, reducing
from harness.reduction.budget import make_reducer, realised_ratio
from harness.reduction.plan import token_counts

IDS = torch.tensor([[2, 40, 41, 42, 43, 44, 45, 46, 47, 3], [2, 50, 51, 52, 3, 0, 0, 0, 0, 0]])


@pytest.fixture(scope="module")
def meter():
    torch.manual_seed(0)
    return build_host("meter-tiny", depth=4, width=24, heads=3, image_size=64).double().eval()


def made(meter, **settings):
    return make_reducer("pumer", meter.shape, settings=settings).double().eval()


def attended(meter, reducer, ids, mask, images):
    with torch.no_grad(), reducing(reducer):
        texts = meter.text_batch(ids, mask)
        return meter.co_attend(texts, meter.encode_image(images))


def images(count=2):
    return torch.randn(count, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_counts_are_of_the_tokens_that_enter_a_layer(meter):
    """65 tokens: 13 pruned (.2), then 13 merged; 39: 8 pruned, 8 merged (Python's round)."""
    reducer = made(meter, layers=[0, 1])
    assert token_counts(reducer).mlp == [39, 23]
    read = attended(meter, reducer, IDS, IDS > 0, images())
    assert read.image.states.shape[1] == 23
    # 10 words: 2 merged, then 8: 2 merged; of 5 words 1, then of 4 words 1.
    assert read.text.standing.sum(1).tolist() == [6, 3]


def test_a_ratio_is_of_the_image_tokens_in_the_fusion_layers(meter):
    for ratio in (0.9, 0.7, 0.5):
        reducer = make_reducer("pumer", meter.shape, ratio=ratio)
        assert realised_ratio(reducer) == pytest.approx(ratio, abs=0.01)
        read = attended(meter, reducer.double(), IDS, IDS > 0, images())
        assert read.image.states.shape[1] == token_counts(reducer).mlp[-1]


def test_ratio_one_is_meter_bit_for_bit(meter):
    plain = attended(meter, None, IDS, IDS > 0, images())
    reduced = attended(meter, make_reducer("pumer", meter.shape, ratio=1.0).double(), IDS, IDS > 0, images())
    assert torch.equal(plain.cls, reduced.cls)


@pytest.mark.parametrize("padding", [False, True])
def test_padding_takes_part_in_the_program_alone(meter, padding):
    reducer, mask = made(meter, layers=[0, 1], padding_merges=padding), IDS > 0
    together = attended(meter, reducer, IDS, mask, images()).cls[1]
    alone = attended(meter, reducer, IDS[1:, :5], mask[1:, :5], images()[1:]).cls[0]
    same = float((together - alone).abs().max())
    assert same < 1e-12 if not padding else same > 1e-3


def test_without_padding_both_agree_but_for_the_eps(meter):
    ids = IDS[:1]
    one, other = (
        attended(meter, made(meter, padding_merges=flag), ids, ids > 0, images(1)).cls for flag in (False, True)
    )
    assert 0 < float((one - other).abs().max()) < 1e-4


def test_the_image_reads_the_text_s_new_output(meter):
    """With one layer that prunes one image token of 65 and merges nothing, the image's stream still differs from
    METER's by more than a token: it read what the text's layer made.
    """
    reducer = made(meter, layers=[1], prune=0.02, merge=0.0, merge_text=0.0)
    assert reducer.text_first
    assert token_counts(reducer).mlp == [65, 64]
    plain, reduced = (attended(meter, each, IDS, IDS > 0, images()) for each in (None, reducer))
    assert reduced.text.states.shape == plain.text.states.shape
    assert float((plain.image.states[:, 0] - reduced.image.states[:, 0]).abs().max()) > 1e-3


def test_the_program_prunes_only_where_it_merges(meter):
    assert token_counts(made(meter, merge=0.0)).mlp == [52, 42]
    assert token_counts(made(meter, merge=0.0, pruned_by_merging=True)).mlp == [65, 65]


@pytest.mark.parametrize("host", ["albef-tiny", "blip-tiny"])
def test_hosts_whose_images_read_nothing_are_refused(host):
    model = build_host(host, depth=4, width=24, heads=3, image_size=32)
    with pytest.raises(HarnessError, match="two streams that read each other"):
        make_reducer("pumer", model.shape)


def test_a_tower_without_fusion_is_refused(meter):
    with pytest.raises(HarnessError, match="works in fusion, which CLIPVisionModel has not"):
        make_reducer("pumer", open_tower(meter.vision).shape)


@pytest.mark.parametrize("settings", [{"prune": 1.0}, {"merge": -0.1}, {"layers": [-1]}, {"layers": []}])
def test_bad_settings_are_refused_in_one_line(meter, settings):
    with pytest.raises(HarnessError, match=next(iter(settings))) as refusal:
        make_reducer("pumer", meter.shape, settings=settings)
    assert "\n" not in str(refusal.value)


def test_costs_of_the_fusion_encoder_are_of_texts_without_padding():
    with torch.device("meta"):
        host = build_host("meter-tiny")
    words, pixels = (
        host_parts("meter-tiny", make_reducer("pumer", host.shape, settings=settings))["fusion"]["forward_gmacs"]
        for settings in ({"merge_text": 0.4}, {"merge_text": 0})
    )
    assert words < pixels < host_parts("meter-tiny", make_reducer("dense", host.shape))["fusion"]["forward_gmacs"]


def test_an_image_too_small_to_merge_is_sorted_all_the_same(meter):
    image = TokenState(torch.arange(2.0).view(1, 2, 1).double(), prefix=0)
    scores, keys = torch.tensor([[0.1, 0.9]]).double(), torch.ones(1, 2, 1).double()
    assert made(meter, merge=0.3).reduced_image(image, scores, keys).tokens.flatten().tolist() == [1, 0]
