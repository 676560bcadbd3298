"""TokenState: keep, merge, pool and append, on states small enough to check by hand."""

import pytest
import torch

from harness.kit.errors import HarnessError
from harness.reduction import TokenState, current_phase, phase, sample_keys, split_top


def state(prefix: int = 1, patches: int = 4) -> TokenState:
    """Patch token j holds the value 10 j; prefix tokens hold -1."""
    values = torch.cat([torch.full((prefix,), -1.0), 10.0 * torch.arange(patches)])
    return TokenState(values.view(1, -1, 1).double(), prefix).traced()


def values(of: TokenState) -> list[float]:
    return of.patch_tokens.flatten().tolist()


def test_keep_takes_patches_in_the_order_given_and_protects_the_prefix():
    kept = state(prefix=2).keep(torch.tensor([[3, 1]]))
    assert kept.tokens.flatten().tolist() == [-1, -1, 30, 10]
    assert kept.origin.tolist() == [[-1, 1, -1, 0]]


def test_keeping_more_than_there_is_is_refused():
    with pytest.raises(HarnessError, match="asked to keep 5 tokens where there are 4"):
        state().keep(torch.zeros(1, 5, dtype=torch.long))


def test_merge_is_the_size_weighted_mean_and_conserves_sizes():
    once = state().merge(torch.tensor([[0]]), torch.tensor([[1]]), torch.tensor([[1, 2, 3]]))
    assert values(once) == [5, 20, 30]
    assert once.patch_sizes.tolist() == [[2, 1, 1]]
    twice = once.merge(torch.tensor([[0]]), torch.tensor([[2]]), torch.tensor([[1, 2]]))
    assert values(twice) == [20, pytest.approx((2 * 5 + 30) / 3)]
    assert twice.patch_sizes.tolist() == [[1, 3]]
    assert twice.origin.tolist() == [[1, 1, 0, 1]]


def test_several_sources_may_share_a_destination():
    merged = state().merge(torch.tensor([[0, 2]]), torch.tensor([[1, 1]]), torch.tensor([[1, 3]]))
    assert values(merged) == [10, 30]
    assert merged.patch_sizes.tolist() == [[3, 1]]


def test_pooled_token_stands_last_and_holds_its_patches():
    start = state()
    dropped = torch.tensor([[0, 3]])
    reduced = start.keep(torch.tensor([[1, 2]])).append(start.pool(dropped, torch.tensor([[0.5, 0.5]]).double()))
    assert values(reduced) == [10, 20, 15]
    assert reduced.origin.tolist() == [[2, 0, 1, 2]]


def test_a_merged_token_dropped_later_takes_its_patches_with_it():
    start = state()
    reduced = start.keep(torch.tensor([[1, 2]])).append(start.pool(torch.tensor([[0, 3]])))
    assert reduced.keep(torch.tensor([[0]])).origin.tolist() == [[-1, 0, -1, -1]]


def test_pool_without_weights_is_the_size_weighted_mean():
    merged = state().merge(torch.tensor([[0]]), torch.tensor([[1]]), torch.tensor([[1, 2, 3]]))
    pooled = merged.pool(torch.tensor([[0, 2]]))
    assert pooled.token.item() == pytest.approx((2 * 5 + 30) / 3)
    assert pooled.size.item() == 3


def test_split_top_breaks_ties_by_the_lower_index():
    top, rest = split_top(torch.tensor([[1.0, 2.0, 1.0, 2.0]]), 3)
    assert (top.tolist(), rest.tolist()) == ([[1, 3, 0]], [[2]])


def test_phases_nest_and_end():
    with phase("scoring"):
        with phase("matching"):
            assert current_phase() == "matching"
        assert current_phase() == "scoring"
    assert current_phase() == "main"


def test_sample_keys_depend_on_the_image_alone():
    images = torch.randn(3, 3, 4, 4)
    keys = sample_keys(images)
    assert len(set(keys.tolist())) == 3
    assert torch.equal(sample_keys(images[[2, 0]]), keys[[2, 0]])


def test_a_pooled_token_holds_only_what_was_chosen():
    start = state()
    weights = torch.ones(1, 4).double()
    pooled = start.pool(torch.tensor([[0, 1, 2, 3]]), weights, torch.tensor([[True, False, False, True]]))
    assert pooled.token.item() == 30
    assert pooled.members.tolist() == [[True, False, False, True]]
