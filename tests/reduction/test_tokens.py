"""What tokens stand for: hiding, packing, joining, spreading and averaging, on numbers that a hand can check."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.reduction import Tokens, TokenState, attention_map, join


def state(*rows: list[float]) -> TokenState:
    """A class token of value -1, then a row's values; origins are traced."""
    values = torch.tensor([[-1.0, *row] for row in rows], dtype=torch.float64)
    return TokenState(values.unsqueeze(-1)).traced()


def tokens(*rows: list[float], sizes: list[list[float]] | None = None, mask: list[list[int]] | None = None) -> Tokens:
    """Tokens of one channel, a class token among them."""
    return Tokens(
        torch.tensor(rows, dtype=torch.float64).unsqueeze(-1),
        None if mask is None else torch.tensor(mask).bool(),
        None if sizes is None else torch.tensor(sizes, dtype=torch.float64),
    )


def masked(*rows: list[int]) -> Tensor:
    return torch.tensor(rows).bool()


def merged(of: TokenState, source: int, into: int) -> TokenState:
    """Every row's token `source` merged into its token `into`."""
    rest = [place for place in range(of.patches) if place != source]
    batch = len(of.tokens)
    return of.merge(*(torch.tensor([places] * batch) for places in ([source], [into], rest)))


def flat(values: Tensor) -> list[list[float]]:
    found: list[list[float]] = values.squeeze(-1).tolist()
    return found


def test_hidden_tokens_stay_where_they_are_and_the_prefix_stands() -> None:
    hidden = state([10, 20, 30]).hide(masked([1, 0, 1]))
    assert flat(hidden.tokens) == [[-1, 10, 20, 30]]
    assert hidden.standing is not None
    assert hidden.standing.tolist() == [[True, True, False, True]]
    assert hidden.patches == 3


def test_what_is_hidden_stays_hidden() -> None:
    twice = state([10, 20, 30]).hide(masked([1, 0, 1])).hide(masked([0, 1, 1]))
    assert twice.standing is not None
    assert twice.standing.tolist() == [[True, False, False, True]]


def test_a_mask_of_numbers_multiplies_and_keeps_its_gradient() -> None:
    first, second = (torch.tensor([row], dtype=torch.float64, requires_grad=True) for row in ([1.0, 0, 1], [1.0, 1, 0]))
    twice = state([10, 20, 30]).hide(first).hide(second)
    assert twice.mask is not None
    assert twice.standing is not None
    assert twice.standing.tolist() == [[True, True, False, False]]
    (twice.mask * torch.tensor([[5.0, 1, 2, 3]])).sum().backward()
    assert first.grad is not None
    assert first.grad.tolist() == [[1, 2, 0]]
    assert second.grad is not None
    assert second.grad.tolist() == [[1, 0, 3]]


def test_a_mask_follows_the_tokens_that_are_kept_and_one_that_is_appended_stands() -> None:
    hidden = state([10, 20, 30]).hide(masked([1, 0, 1]))
    kept = hidden.keep(torch.tensor([[1, 0]]))
    assert kept.standing is not None
    assert kept.standing.tolist() == [[True, False, True]]
    longer = kept.append(hidden.pool(torch.tensor([[0, 2]])))
    assert longer.standing is not None
    assert longer.standing.tolist() == [[True, False, True, True]]
    assert flat(longer.tokens) == [[-1, 20, 10, 20]]


def test_packed_removes_what_is_hidden_in_order_and_masks_the_padding() -> None:
    packed = state([10, 20, 30, 40], [50, 60, 70, 80]).hide(masked([0, 1, 0, 1], [1, 0, 0, 0])).packed()
    assert packed.standing is not None
    assert packed.standing.tolist() == [[True, True, True], [True, True, False]]
    assert flat(packed.tokens)[0] == [-1, 20, 40]
    assert flat(packed.tokens)[1][:2] == [-1, 50]
    assert packed.origin is not None
    assert packed.origin.tolist() == [[-1, 0, -1, 1], [0, -1, -1, -1]]


def test_packed_leaves_no_mask_where_no_row_is_padded() -> None:
    packed = state([10, 20, 30], [40, 50, 60]).hide(masked([0, 1, 1], [1, 1, 0])).packed()
    assert packed.mask is None
    assert flat(packed.tokens) == [[-1, 20, 30], [-1, 40, 50]]


def test_packed_of_all_that_stands_is_the_same_state() -> None:
    whole = state([10, 20])
    assert whole.packed() is whole


def test_a_row_that_hides_everything_keeps_its_prefix_alone() -> None:
    packed = state([10, 20], [30, 40]).hide(masked([0, 0], [0, 1])).packed()
    assert packed.standing is not None
    assert packed.standing.tolist() == [[True, False], [True, True]]
    assert packed.origin is not None
    assert packed.origin.tolist() == [[-1, -1], [-1, 0]]


def test_packed_of_a_batch_is_that_of_its_rows_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 9, 4, dtype=torch.float64, generator=generator)
    stands = torch.rand(6, 7, generator=generator) < 0.5
    assert len(set(stands.sum(1).tolist())) > 2
    whole = merged(TokenState(values).traced(), 2, 5).hide(stands).packed()
    for row in range(6):
        alone = merged(TokenState(values[row : row + 1]).traced(), 2, 5).hide(stands[row : row + 1]).packed()
        length = alone.tokens.shape[1]
        assert whole.standing is not None
        assert alone.mask is None
        assert whole.standing[row].tolist() == [place < length for place in range(whole.tokens.shape[1])]
        assert torch.equal(whole.tokens[row : row + 1, :length], alone.tokens)
        for ours, theirs in ((whole.sizes, alone.sizes), (whole.origin, alone.origin)):
            assert ours is not None
            assert theirs is not None
            assert torch.equal(ours[row : row + 1, : theirs.shape[1]], theirs)


def test_sizes_of_what_stands_are_the_inputs_that_live() -> None:
    """Eight inputs, two merges, one of them of a merged token; then two tokens go, with all that they hold."""
    start = state([0, 1, 2, 3, 4, 5, 6, 7])
    once = merged(merged(start, 0, 4), 3, 6)
    assert once.sizes is not None
    assert once.sizes.sum().item() == 1 + 8
    assert once.patch_sizes.tolist() == [[1, 1, 1, 1, 1, 3]]
    packed = once.hide(masked([1, 1, 0, 1, 0, 1])).packed()
    assert packed.origin is not None
    assert packed.patch_sizes.tolist() == [[1, 1, 1, 3]]
    assert packed.patch_sizes.sum() == (packed.origin >= 0).sum()
    total = (once.tokens * once.sizes.unsqueeze(-1)).sum()
    assert total.item() == pytest.approx(-1 + 28)


def test_the_bias_of_a_state_hides_and_weighs_its_keys() -> None:
    """Equal keys: a query's attention is each key's share of the inputs that stand."""
    start = state([10, 20, 30, 40])
    assert start.bias() is None
    assert start.bias(proportional=True) is None
    hidden = merged(start, 3, 0).hide(masked([1, 0, 1]))
    q, k = torch.randn(1, 2, 4, 3, dtype=torch.float64), torch.zeros(1, 2, 4, 3, dtype=torch.float64)
    for proportional, shares in ((False, [1 / 3, 1 / 3, 0, 1 / 3]), (True, [1 / 4, 2 / 4, 0, 1 / 4])):
        bias = hidden.bias(proportional)
        assert bias is not None
        assert bias.shape == (1, 1, 1, 4)
        expected = torch.tensor(shares, dtype=torch.float64).expand(1, 2, 4, 4)
        torch.testing.assert_close(attention_map(q, k, bias), expected, rtol=0, atol=1e-15)


def test_hiding_a_key_is_packing_it_away() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = TokenState(torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)).hide(
        masked([1, 0, 0, 1, 1], [0, 1, 1, 0, 1])
    )
    packed = hidden.packed()
    assert (hidden.tokens.shape[1], packed.tokens.shape[1]) == (6, 4)
    read = [
        attention_map(hidden.tokens[:, None, :1], each.tokens[:, None], each.bias()) @ each.tokens[:, None]
        for each in (hidden, packed)
    ]
    torch.testing.assert_close(read[0], read[1], rtol=0, atol=1e-14)


def test_a_mean_counts_each_token_by_its_size_and_none_that_does_not_stand() -> None:
    plain = tokens([6, 1, 2, 3])
    assert plain.mean().item() == 3
    assert plain.mean(1).item() == 2
    sized = tokens([6, 1, 2, 3], sizes=[[1, 4, 1, 1]])
    assert sized.mean().item() == pytest.approx((6 + 4 + 2 + 3) / 7)
    assert sized.mean(1).item() == pytest.approx((4 + 2 + 3) / 6)
    hidden = tokens([6, 1, 2, 3], mask=[[1, 0, 1, 1]])
    assert hidden.mean(1).item() == pytest.approx((2 + 3) / 2)
    both = tokens([6, 1, 2, 3], sizes=[[1, 4, 1, 3]], mask=[[1, 0, 1, 1]])
    assert both.mean(1).item() == pytest.approx((2 + 9) / 4)


def test_log_sizes_are_logs_of_sizes_and_minus_infinity_where_nothing_stands() -> None:
    assert tokens([6, 1, 2]).log_sizes().tolist() == [[0, 0, 0]]
    both = tokens([6, 1, 2], sizes=[[1, 4, 2]], mask=[[1, 0, 1]]).log_sizes(1)
    assert both.exp().tolist() == [[0, pytest.approx(2)]]


def test_rows_take_along_all_that_tokens_stand_for() -> None:
    left = merged(state([10, 20, 30], [40, 50, 60]), 2, 0).hide(masked([1, 1], [0, 1])).noted(score=torch.ones(2))
    whole = left.left(left.tokens)
    turned = whole.rows(torch.tensor([1, 0, 1]))
    assert flat(turned.states) == [[-1, 50, 50], [-1, 20, 20], [-1, 50, 50]]
    assert turned.standing.tolist() == [[True, False, True], [True, True, True], [True, False, True]]
    assert turned.sizes is not None
    assert turned.sizes.tolist() == [[1, 2, 1]] * 3
    assert turned.origin is not None
    assert turned.origin.tolist() == [[0, 1, 0]] * 3
    assert (turned.prefix, dict(turned.notes)) == (1, {})
    assert len(turned) == 3


def test_repeated_tokens_stand_one_after_the_other() -> None:
    assert flat(tokens([1, 2], [3, 4]).repeated(2).states) == [[1, 2], [1, 2], [3, 4], [3, 4]]


def test_only_texts_that_were_not_reduced_are_cut() -> None:
    whole = tokens([1, 2, 3], mask=[[1, 1, 0]])
    assert flat(whole.cut(2).states) == [[1, 2]]
    assert whole.cut(2).standing.tolist() == [[True, True]]
    sized = tokens([1, 2, 3], sizes=[[1, 2, 1]])
    assert sized.cut(2) is sized


def test_at_inputs_each_input_has_the_state_it_lives_in() -> None:
    reduced = merged(state([10, 20, 30, 40]), 0, 2).keep(torch.tensor([[1, 0]]))
    spread = reduced.left(reduced.tokens).at_inputs()
    assert flat(spread) == [[-1, 20, 20, 20, 0]]
    plain = tokens([6, 1, 2])
    assert plain.at_inputs() is plain.states


def test_joined_batches_are_padded_with_what_does_not_stand() -> None:
    narrow, wide = tokens([1, 2]), tokens([3, 4, 5], [6, 7, 8], mask=[[1, 1, 1], [1, 0, 1]])
    joined = join([narrow, wide])
    assert flat(joined.states) == [[1, 2, 0], [3, 4, 5], [6, 7, 8]]
    assert joined.standing.tolist() == [[True, True, False], [True, True, True], [True, False, True]]
    assert joined.sizes is None
    assert joined.mean().flatten().tolist() == [1.5, 4, 7]


def test_joined_sizes_of_padding_are_zero_and_of_unmerged_tokens_one() -> None:
    joined = join([tokens([1, 2]), tokens([3, 4, 5], sizes=[[1, 2, 3]])])
    assert joined.sizes is not None
    assert joined.sizes.tolist() == [[1, 1, 0], [1, 2, 3]]
    assert joined.sizes.sum(1).tolist() == [2, 6]
    assert joined.mean(1).flatten().tolist() == pytest.approx([2, (2 * 4 + 3 * 5) / 5])


def test_joined_origins_live_where_all_parts_have_some() -> None:
    parts = [merged(state([10, 20, 30]), 0, 1), merged(state([40, 50, 60]), 2, 0)]
    left = [part.left(part.tokens) for part in parts]
    joined = join(left)
    assert joined.origin is not None
    assert joined.origin.tolist() == [[0, 0, 1], [0, 1, 0]]
    assert joined.mask is None
    assert torch.equal(joined.at_inputs(), torch.cat([part.at_inputs() for part in left]))
    assert join([left[0], tokens([1, 2, 3])]).origin is None
