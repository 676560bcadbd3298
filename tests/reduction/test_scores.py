"""Scores that are NaN end a pass in one line, by whatever function a method chooses; all others pass unseen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.check.method import small_vit
from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.reduction import Evidence, MethodConfig, StackShape, TokenReducer, TokenState, encode, split_top
from harness.reduction.scores import scores_watched

WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "sort": lambda scores: split_top(scores, 32)[0],
    "sort upwards": lambda scores: scores.sort(dim=1).indices[:, :32],
    "argsort": lambda scores: scores.argsort(dim=1)[:, :32],
    "topk": lambda scores: scores.topk(32, dim=1).indices,
    "topk of the smallest": lambda scores: torch.topk(scores, 32, dim=1, largest=False).indices,
    "argmax": lambda scores: scores.argmax(dim=1, keepdim=True),
    "max": lambda scores: scores.max(dim=1, keepdim=True).indices,
    "amin": lambda scores: (scores - scores.amin(dim=1, keepdim=True)).long() * 0,
}


class Odd(TokenReducer[MethodConfig]):
    """Keeps tokens in block 5 by scores of which one is NaN in image `odd`, if any; `late`: after the attention."""

    def __init__(self, shape: StackShape, way: str, odd: int | None, late: bool = False) -> None:
        super().__init__(MethodConfig(), shape)
        self.way, self.odd, self.late = way, odd, late

    def chosen(self, state: TokenState) -> TokenState:
        scores = state.patch_tokens.square().mean(dim=-1)
        if self.odd is not None:
            scores[self.odd, 7] = torch.nan
        return state.keep(WAYS[self.way](scores))

    def before_block(self, block: int, state: TokenState, stack: Any, guide: Any) -> TokenState:
        return self.chosen(state) if block == 5 and not self.late else state

    def between(self, block: int, state: TokenState, evidence: Evidence) -> TokenState:
        return self.chosen(state) if block == 5 and self.late else state


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_nan_score_of_one_image_is_named(way: str, late: bool) -> None:
    tower = open_tower(small_vit())
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    hook, function = "between" if late else "before_block", way.split(maxsplit=1)[0]
    with torch.no_grad():
        with scores_watched(whole := Odd(tower.shape, way, None, late)):
            expected = encode(tower, whole, images)
        line = rf"^Odd, block 5 \({hook}\): NaN among the scores that it chooses by \({function}\)$"
        with pytest.raises(HarnessError, match=line), scores_watched(odd := Odd(tower.shape, way, 1, late)):
            encode(tower, odd, images)
        assert torch.equal(encode(tower, whole, images).states, expected.states)


def test_a_method_is_as_it_was_when_its_watch_ends() -> None:
    method = Odd(open_tower(small_vit()).shape, "sort", None)
    before = dict(vars(method))
    with scores_watched(method):
        assert vars(method) != before
    assert vars(method) == before


def test_what_is_masked_out_and_what_is_compared_number_by_number_is_no_nan() -> None:
    class Masked(Odd):
        def chosen(self, state: TokenState) -> TokenState:
            scores = state.patch_tokens.square().mean(dim=-1)
            scores[:, ::2] = -torch.inf
            torch.max(scores, torch.full_like(scores, torch.nan))
            return state.keep(split_top(scores, 32)[0])

    tower = open_tower(small_vit())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad(), scores_watched(method := Masked(tower.shape, "sort", None)):
        assert encode(tower, method, images).states.shape[1] == 33
