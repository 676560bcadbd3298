"""Tokens of images within a budget: what is kept, and what is asked for again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.evaluate.token_cache import ImageTokens, in_first_order
from harness.reduction import Tokens

# Tokens (2, 3) in float64 of one image.
BYTES = 2 * 3 * 8


def tokens(index: Tensor) -> Tokens:
    """Tokens that tell whose they are."""
    return Tokens(index[:, None, None].double().expand(-1, 2, 3))


def filled(states: ImageTokens, *numbers: int, keep: bool = True) -> list[int]:
    """Ask for images; returns those that had to be encoded."""
    index = torch.tensor(numbers)
    missing = states.missing(index)
    if len(missing):
        states.add(missing, tokens(missing), index, keep=keep)
    assert torch.equal(states.take(index).states, tokens(index).states)
    return missing.tolist()


def test_with_room_every_image_is_encoded_once() -> None:
    states = ImageTokens(6)
    assert filled(states, 4, 2, 4) == [4, 2]
    assert filled(states, 2, 5) == [5]
    assert filled(states, 5, 4, 2) == []


def test_beyond_the_budget_the_latest_stay() -> None:
    states = ImageTokens(6, 2 * BYTES)
    assert filled(states, 0, 1, 2, 3) == [0, 1, 2, 3]
    assert filled(states, 3, 4) == [4]
    assert filled(states, 4, 3) == []
    assert filled(states, 0, 4, 5) == [5]
    assert filled(states, 1, 3) == [3]


def test_the_last_two_batches_stay_asked_for_or_not() -> None:
    states = ImageTokens(6, 0)
    assert filled(states, 0, 1, 2) == [0, 1, 2]
    assert filled(states, 3) == [3]
    assert filled(states, 2, 0) == []
    assert filled(states, 4) == [4]
    assert filled(states, 3, 2) == [2]


def test_what_is_not_wanted_again_takes_no_room() -> None:
    states = ImageTokens(6, 2 * BYTES)
    assert filled(states, 0, 1, keep=False) == [0, 1]
    assert filled(states, 2, 3) == [2, 3]
    assert filled(states, 4, 5) == [4, 5]
    assert filled(states, 0) == [0]
    assert filled(states, 3, 2) == []


def test_the_order_of_first_use() -> None:
    assert in_first_order(torch.tensor([3, 1, 3, 0, 1])).tolist() == [3, 1, 0]
    assert in_first_order(torch.tensor([], dtype=torch.int64)).tolist() == []


def of_own_width(number: int) -> Tokens:
    """One image's tokens of an adaptive method: as many as its number, and merged where that is odd."""
    states = torch.full((1, number, 3), float(number), dtype=torch.float64)
    return Tokens(states, sizes=2 * torch.ones(1, number, dtype=torch.float64) if number % 2 else None)


@pytest.mark.parametrize("order", [(2, 3, 4, 5), (5, 4, 3, 2)])
@pytest.mark.parametrize("room", [0, 2, 6])
def test_images_keep_their_own_numbers_of_tokens_and_sizes(room: int, order: tuple[int, ...]) -> None:
    each = 5 * (3 * 8 + 8 + 1)  # states, sizes and mask
    states = ImageTokens(6, room * each, widest=5)
    asked = torch.tensor(order)
    for number in order:
        states.add(torch.tensor([number]), of_own_width(number), asked)
    for number, row in zip(order, range(4), strict=True):
        found = states.take(asked)
        stands = found.standing[row]
        assert stands.tolist() == [place < number for place in range(5)]
        assert (found.states[row][stands] == number).all()
        assert found.sizes is not None
        assert found.sizes[row][stands].tolist() == [2 if number % 2 else 1] * number
