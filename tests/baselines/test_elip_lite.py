"""ELIP lite: the score is that of one query at the block ahead, and costs next to nothing; the rest is ELIP's."""

import pytest
import torch

from harness.check.method import small_vit
from harness.cost.budget import tower_macs
from harness.cost.vits import build_vit
from harness.hosts.build import build_host, paper_settings
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import Guide, Tokens, TokenState, Trace, drive, encode
from harness.reduction.budget import make_reducer
from harness.reduction.plan import token_counts
from tests.hosts.small_towers import BARE, drawn, images

CLS = frozenset({"cls_attention"})
IMAGES = torch.randn(3, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
TEXT = torch.randn(3, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(6))


def encoded(method, settings=None, schedule=None, guide=None, trace=None) -> Tokens:
    tower = open_tower(small_vit())
    reducer = make_reducer(method, tower.shape, settings=settings, schedule=schedule)
    with torch.no_grad():
        return encode(tower, reducer, IMAGES, guide or Guide(TEXT), trace)


def test_with_one_block_ahead_it_is_elip():
    """A look-ahead of one block asks the running block: the same score, here without its keys."""
    schedule = "begin=2,4,10 keep=.9,.65,.4 lookahead=1,1,1"
    exact, lite = encoded("elip", schedule=schedule), encoded("elip_lite", schedule=schedule)
    torch.testing.assert_close(lite.states, exact.states, rtol=0, atol=1e-10)


def test_the_first_stage_keeps_what_block_3_attends_to_in_the_input_of_block_2():
    tower, trace = open_tower(small_vit()), Trace(origins_wanted=True, states=[])
    encoded("elip_lite", trace=trace)
    entering = trace.states[2]
    guided = torch.cat([0.8 * entering.tokens[:, :1] + 0.2 * TEXT.unsqueeze(1), entering.tokens[:, 1:]], dim=1)
    q, k = tower.query_and_keys(3, guided)
    score = (q @ k.transpose(-2, -1) / 8**0.5).softmax(-1)[:, :, 0, 1:].mean(1)
    for row in range(3):
        dropped = set(score[row].topk(7, largest=False).indices.tolist())  # int(64 * .9) = 57 stay
        assert {patch for patch in range(64) if int(trace.origins[2][row, patch]) == 57} == dropped


@pytest.mark.parametrize("family", BARE)
def test_the_query_through_the_keys_weights_gives_the_attention_of_every_tower(family):
    """Also where keys are rotated, normed or biased by place, which takes the keys themselves."""
    tower = open_tower(drawn(BARE[family]).double())
    with torch.no_grad():
        state = tower.open(images().double())
        expected = tower.observe(4, state, CLS).cls_attention
        torch.testing.assert_close(tower.class_attention(4, state), expected, rtol=0, atol=1e-10)


def test_scoring_costs_less_than_two_percent_and_the_forward_pass_less_than_three_quarters_of_dense():
    """The tokens per block are ELIP's (published_figures.yaml, 28.9 % removed); exact ELIP scores for 12.2 GMACs."""
    model = build_vit("vit_base_patch16_224", 256)
    shape = open_tower(model).shape
    trace = Trace()
    counts = tower_macs(model, make_reducer("elip_lite", shape), trace=trace).forward
    dense = sum(tower_macs(model, make_reducer("dense", shape)).forward.values())
    assert trace.attention == [257] * 2 + [232] * 2 + [168] * 6 + [104] * 2
    assert counts["main"] / 1e9 == pytest.approx(16.3, rel=0.005)
    # By stage: q, q through the weights of the keys, and that with each token for every head.
    assert counts["scoring"] == 3 * 2 * 768**2 + (257 + 232 + 168) * 12 * 768
    assert counts["scoring"] < 0.02 * dense
    assert sum(counts.values()) < 0.75 * dense


def test_landmarks_of_all_patches_pass_through_the_mlps_alone():
    """Every patch is then its own landmark, and moves as the MLP of block 2 moves it."""
    tower, trace = open_tower(small_vit()), Trace(origins_wanted=True, states=[])
    encoded("elip_lite", {"landmarks": 1.0}, trace=trace)
    entering = trace.states[2]
    moved = tower.mlp(2, entering.tokens[:, 1:])
    guided = torch.cat([0.8 * entering.tokens[:, :1] + 0.2 * TEXT.unsqueeze(1), moved], dim=1)
    with torch.no_grad():
        score = tower.observe(3, TokenState(guided), CLS).cls_attention
    for row in range(3):
        dropped = set(score[row].topk(7, largest=False).indices.tolist())
        assert {patch for patch in range(64) if int(trace.origins[2][row, patch]) == 57} == dropped


def test_a_landmark_moves_the_patches_most_like_it():
    tower = open_tower(small_vit())
    method = make_reducer("elip_lite", tower.shape, settings={"landmarks": 0.5})
    patches = torch.randn(1, 4, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    patches[:, 1], patches[:, 3] = patches[:, 2] + 0.01, patches[:, 0] + 0.01  # landmarks are patches 0 and 2
    with torch.no_grad():
        moves = method.moved(range(2, 4), patches, tower) - patches
        expected = tower.mlp(3, tower.mlp(2, patches)) - patches
    torch.testing.assert_close(moves[:, [0, 2, 2, 0]], expected[:, [0, 2, 2, 0]])
    torch.testing.assert_close(moves[:, [3, 1]], moves[:, [0, 2]])


def test_kept_scores_rank_later_stages_and_the_merged_token_has_the_sum():
    tower, trace = open_tower(small_vit()), Trace(states=[])
    tokens = encoded("elip_lite", {"keep_scores": True}, trace=trace)
    entering = trace.states[2].tokens
    guided = torch.cat([0.8 * entering[:, :1] + 0.2 * TEXT.unsqueeze(1), entering[:, 1:]], dim=1)
    with torch.no_grad():
        first = tower.observe(3, TokenState(guided), CLS).cls_attention
    for row, scores in enumerate(first.tolist()):
        for count in (57, 41, 25):
            ranked = sorted(scores, reverse=True)
            scores = [*ranked[:count], sum(ranked[count:])]
        assert sorted(tokens.notes["scores"][row].tolist()) == pytest.approx(sorted(scores))


def test_without_a_text_all_tokens_stay():
    tower = open_tower(small_vit())
    reducer = make_reducer("elip_lite", tower.shape)
    with torch.no_grad():
        dense = drive(tower, tower.open(IMAGES), make_reducer("dense", tower.shape))
        assert torch.equal(encode(tower, reducer, IMAGES).states, dense.states)


@pytest.mark.parametrize("host", ["clip-base", "meter-base"])
def test_hosts_give_it_the_schedule_that_their_elip_has(host):
    with torch.device("meta"):
        shape = build_host(host).shape
    found = []
    for method in ("elip", "elip_lite"):
        settings, schedule = paper_settings(host, method, None, {})
        found.append(token_counts(make_reducer(method, shape, settings=settings, schedule=schedule)).mlp)
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("settings", "schedule", "reason"),
    [
        ({"landmarks": 1.5}, None, "landmarks"),
        ({"vision_weight": 2}, None, "vision_weight"),
        ({}, "begin=2,10 keep=.9,.5 lookahead=2,4", "look-ahead 4 for stage 2 goes beyond"),
        ({"keep_tokens": [30, 40, 20]}, None, "counts that do not rise"),
        ({"keep_tokens": [30, 20]}, None, "the schedule has 3 stages"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, schedule, reason):
    with pytest.raises(HarnessError, match=reason) as refusal:
        make_reducer("elip_lite", open_tower(small_vit()).shape, settings=settings, schedule=schedule)
    assert "\n" not in str(refusal.value)


def test_a_tower_without_a_class_token_is_refused():
    shape = open_tower(small_vit(class_token=False, global_pool="avg")).shape
    with pytest.raises(HarnessError, match="needs a class token") as refusal:
        make_reducer("elip_lite", shape)
    assert "\n" not in str(refusal.value)
