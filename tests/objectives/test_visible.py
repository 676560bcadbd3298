"""Facts about a part of the patches through a tower: the same tokens, their origins, and methods fitted to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.hosts.parts.towers import open_tower
from harness.kit.errors import HarnessError
from harness.objectives.parts.objective import Moment
from harness.objectives.parts.visible import encode_visible, for_visible, held, mean_of_sources, patch_order
from harness.reduction import PLAIN, Tokens, drive
from harness.reduction.budget import make_reducer, realised_ratio
from tests.objectives.masked import images, made

SEEN = torch.tensor([[5, 2, 60, 9, 33, 12, 40, 7]]).expand(2, -1)


def tower(family: str = "clip", depth: int = 4) -> Any:
    return open_tower(made("mae", family=family, sizes={"depth": depth}).host.vision)


@pytest.mark.parametrize("family", ["clip", "albef"])
def test_all_patches_in_any_order_are_the_dense_tower(family: str) -> None:
    stack, pixels = tower(family), images(2)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3)).expand(2, -1)
    found = encode_visible(stack, PLAIN, pixels, order, early=stack.shape.depth - 1)
    dense = drive(stack, stack.open(pixels), PLAIN).states
    torch.testing.assert_close(found.tokens.at_inputs(), dense)
    torch.testing.assert_close(
        found.tokens.states[:, 1:], dense[:, 1:].gather(1, order[..., None].expand_as(dense[:, 1:]))
    )
    assert found.early is not None
    last = found.tokens if family == "clip" else found.tokens.with_states(stack.normed(found.tokens))
    early = found.early.states if family == "clip" else stack.model.norm(found.early.states)
    torch.testing.assert_close(early, last.states)


def test_origin_says_where_the_patches_that_are_seen_live() -> None:
    found = encode_visible(tower(), PLAIN, images(2), SEEN).tokens
    assert found.states.shape[1] == 9
    assert held(found).sum().item() == 2 * 8
    assert torch.equal(found.origin[0, SEEN[0]], torch.arange(8))


@pytest.mark.parametrize(("method", "gone"), [("tome", False), ("evit", False), ("topk", True), ("random", True)])
def test_a_method_keeps_the_same_share_of_what_is_seen(method: str, gone: bool) -> None:
    stack = tower("albef", depth=12)
    whole = make_reducer(method, stack.shape, ratio=0.7)
    fitted = for_visible(whole, 32, "mae")
    assert fitted.shape.patches == 32
    assert realised_ratio(fitted) == pytest.approx(realised_ratio(whole), abs=0.02)
    seen = torch.arange(0, 64, 2).expand(2, -1)
    found = encode_visible(stack, fitted, images(2), seen).tokens
    assert found.states.shape[1] < 33
    here = held(found)
    assert not here[:, 1::2].any()
    assert bool((~here[:, ::2]).any()) == gone


def test_what_reduces_nothing_is_plain() -> None:
    stack = tower()
    assert for_visible(make_reducer("dense", stack.shape), 8, "mae") is PLAIN
    assert for_visible(make_reducer("tome", stack.shape, ratio=1), 8, "mae") is PLAIN


@pytest.mark.parametrize("method", ["dynamicvit", "resize", "ats"])
def test_methods_that_cannot_be_fitted_are_refused_in_one_line(method: str) -> None:
    with pytest.raises(HarnessError, match=r"objective aclip: .* cannot be fitted to the 36 patches") as caught:
        made("aclip", method=method, sizes={"depth": 12})
    assert "\n" not in str(caught.value)


def test_a_method_with_nothing_to_reduce_is_refused() -> None:
    with pytest.raises(HarnessError, match="objective moca: with reduce_visible off and contrast_weight 0"):
        made("moca", {"reduce_visible": False}, method="tome", ratio=0.7)
    made("moca", {"reduce_visible": False, "contrast_weight": 1.0}, method="tome", ratio=0.7)
    made("moca", {"reduce_visible": False})


def test_a_merged_patchs_target_is_the_mean_of_its_tokens_patches() -> None:
    origin = torch.tensor([[0, 1, 0, -1, 0]])
    tokens = Tokens(torch.zeros(1, 3, 2), sizes=torch.tensor([[1.0, 3.0, 1.0]]), origin=origin)
    targets = torch.tensor([[[3.0, 0.0], [5.0, 1.0], [0.0, 6.0], [7.0, 7.0], [0.0, 0.0]]])
    means = mean_of_sources(tokens, targets)
    expected = torch.tensor([[[1.0, 2.0], [5.0, 1.0], [1.0, 2.0], [7.0, 7.0], [1.0, 2.0]]])
    assert torch.equal(means, expected)


def test_an_order_is_the_samples_own_and_anew_each_epoch() -> None:
    samples = torch.tensor([4, 9, 11])
    drawn = patch_order(samples, 64, Moment(seed=1, epoch=2), views=2)
    assert drawn.shape == (6, 64)
    one = patch_order(samples[1:2], 64, Moment(seed=1, epoch=2, step=7), views=2)
    assert torch.equal(one, drawn[[1, 4]])
    assert not torch.equal(drawn[1], drawn[4])
    assert not torch.equal(patch_order(samples, 64, Moment(seed=1, epoch=3), views=2), drawn)
