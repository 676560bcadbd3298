"""Groups of tokens, padding, two ways of an image, moves, clusters and staged settings, on numbers a hand can check."""

import pytest
import torch

from harness.check.method import small_vit
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import (
    Schedule,
    StackShape,
    StagedConfig,
    TokenState,
    Trace,
    density_peaks,
    distances,
    encode,
    geometric,
    per_block,
)
from harness.reduction.budget import make_reducer

SHAPE = StackShape(depth=12, patches=100, prefix=1, width=2, class_token=True)


def state(*values, **parts):
    return TokenState(torch.tensor([[-1.0, *values]]).unsqueeze(-1), **parts).traced()


def flat(values):
    return values.flatten().tolist()


def test_groups_are_means_by_size_or_weight():
    into = torch.tensor([[1, 0, 1]])
    sized = state(2.0, 4.0, 8.0, sizes=torch.tensor([[1.0, 1.0, 1.0, 3.0]])).group(into, 2)
    assert flat(sized.tokens) == [-1.0, 4.0, 6.5]
    assert flat(sized.sizes) == [1, 1, 4]
    assert flat(sized.origin) == [1, 0, 1]
    weighted = state(2.0, 4.0, 8.0).group(into, 2, torch.tensor([[3.0, 1.0, 1.0]]), eps=1.0)
    assert flat(weighted.tokens) == pytest.approx([-1.0, 2.0, (6 + 8) / 5])
    assert flat(weighted.sizes) == [1, 1, 2]


def test_regrouped_tokens_count_one_each_and_have_no_place():
    before = state(2.0, 4.0, 8.0, sizes=torch.ones(1, 4), positions=torch.arange(4)[None])
    left = before.regroup(torch.tensor([[[5.0], [6.0]]]), torch.tensor([[1, -1, 0]]))
    assert flat(left.tokens) == [-1, 5, 6]
    assert left.sizes is None
    assert flat(left.positions) == [0, -1, -1]
    assert flat(left.origin) == [1, -1, 0]


def test_kept_tokens_may_be_padding():
    left = state(2.0, 4.0, 8.0).keep_where(torch.tensor([[2, 0]]), torch.tensor([[True, False]]))
    assert flat(left.standing) == [True, True, False]
    assert flat(left.origin) == [-1, -1, 0]
    assert state(2.0, 4.0).keep_where(torch.tensor([[1]]), torch.tensor([[True]])).mask is None


def test_each_image_from_one_of_two_states():
    tokens = torch.tensor([[[0.0], [1.0], [2.0]], [[0.0], [3.0], [4.0]]])
    one, other = (TokenState(tokens).traced().keep(torch.tensor([[each], [each]])) for each in (0, 1))
    both = one.where(torch.tensor([True, False]), other)
    assert flat(both.tokens) == [0, 1, 0, 4]
    assert both.origin.tolist() == [[0, -1], [-1, 0]]
    with pytest.raises(HarnessError, match="as many"):
        one.where(torch.tensor([True, False]), TokenState(tokens))


def test_moves_are_of_a_block_and_origins_of_all():
    tower, trace = open_tower(small_vit()), Trace(origins_wanted=True)
    reducer = make_reducer("topk", tower.shape)
    encode(tower, reducer, torch.randn(1, 3, 64, 64).double(), trace=trace)
    assert torch.equal(trace.moves[3], trace.origins[3])
    assert trace.moves[6].shape == (1, 44)
    later = torch.where(trace.origins[3] < 0, -1, trace.moves[6].gather(1, trace.origins[3].clamp(min=0)))
    assert torch.equal(later, trace.origins[6])


def test_distances_are_those_of_cdist():
    tokens = torch.randn(2, 6, 3, dtype=torch.float64) + 100
    torch.testing.assert_close(distances(tokens), torch.cdist(tokens, tokens))
    assert distances(tokens.bfloat16()).dtype == torch.float32


def test_equal_densities_go_by_the_lower_index():
    line = torch.tensor([0.0, 0.0, 9.0, 9.0])
    centres, into = density_peaks((line[:, None] - line).abs()[None], 2, 2)
    assert centres.tolist() == [[0, 2]]
    assert into.tolist() == [[0, 0, 1, 1]]


def test_stages_work_where_any_leaves_fewer_tokens():
    made = StagedConfig(schedule=Schedule(begin=(1, 2, 3), keep=(1.0, 0.5, 0.5)))
    assert made.stages(SHAPE) == {1: (0, 100), 2: (1, 50), 3: (2, 50)}
    assert made.bent(0.0).stages(SHAPE) == {}
    assert StagedConfig().counts(SHAPE) == (70, 48, 34)
    assert StagedConfig().counts(SHAPE, 103) == (72, 50, 35)


@pytest.mark.parametrize("name", ["atc", "gtp"])
def test_a_fixed_schedule_compiles_to_one_graph(name):
    tower, images = open_tower(small_vit()), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    reducer = make_reducer(name, tower.shape).double().eval()
    torch._dynamo.reset()
    compiled = torch.compile(lambda batch: encode(tower, reducer, batch).states, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), encode(tower, reducer, images).states)


def test_shares_and_numbers_per_block():
    assert geometric(0.5, 3) == (0.5, 0.25, 0.125)
    assert per_block(2.5, 0, 4) == [2, 3, 2, 3]
    assert per_block(4, -1, 3) == [8, 4, 0]
