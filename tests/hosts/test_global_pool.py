"""Towers that average or attend over their tokens: a merged token counts as the patches it stands for.

An image of two kinds of patch in a tower without positions: all patches of a kind are the same token in every block.
ToMe then merges equal tokens only, so that a pool over what is left must be the dense one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from harness.check.method import small_vit
from harness.hosts.parts.towers import open_tower
from harness.hosts.reduced import reduce
from harness.hosts.reduced_vit import ReducedModel
from harness.kit.errors import HarnessError
from harness.reduction import Tokens, Trace, encode

POOLS: dict[str, dict[str, Any]] = {
    "mean": {"global_pool": "avg"},
    "mean with the class token": {"global_pool": "avg", "pool_include_prefix": True},
    "mean without a class token": {"global_pool": "avg", "class_token": False},
    "attention": {"global_pool": "map"},
    "attention without a class token": {"global_pool": "map", "class_token": False},
    "class token": {"global_pool": "token"},
}
RATIOS = (0.9, 0.7, 0.6)
SECOND = torch.arange(64) % 8 == 7


def model(**pool: Any) -> VisionTransformer:
    return small_vit(pos_embed="none", num_classes=5, **pool)


def two_kinds(batch: int = 2) -> Tensor:
    """Images of 8 x 8 patches, of which every eighth is of the second kind."""
    kinds = torch.randn(batch, 2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    patches = kinds[:, SECOND.long()].unflatten(1, (8, 8))
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(2, 3).flatten(3, 4)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_over_merged_tokens_is_the_dense_one(pool: str, ratio: float) -> None:
    whole, images = model(**POOLS[pool]), two_kinds()
    reduced = reduce(whole, "tome", ratio=ratio)
    trace = Trace(origins_wanted=True)
    left = encode(reduced.tower, reduced.reducer, images, None, trace)
    assert left.states.shape[1] < 64
    assert left.sizes is not None
    assert left.sizes[:, left.prefix :].sum(1).tolist() == [64, 64]
    for row in trace.origins[-1]:
        assert set(row[SECOND].tolist()).isdisjoint(row[~SECOND].tolist())
    assert relative(reduced(images), whole(images)) < 1e-12


@torch.no_grad()
@pytest.mark.parametrize("pool", [name for name in POOLS if name != "class token"])
def test_a_pool_that_forgets_sizes_is_another(pool: str) -> None:
    """What the test above would miss if both kinds of patch were left in their share."""
    whole, images = model(**POOLS[pool]), two_kinds()
    left = reduce(whole, "tome", ratio=0.7).encode(images)
    assert relative(whole.forward_head(left.states), whole(images)) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_does_not_see_what_does_not_stand(pool: str) -> None:
    whole = model(**POOLS[pool])
    tower, states = open_tower(whole), torch.randn(2, 9, 24, dtype=torch.float64)
    padded = torch.cat([states, torch.full((2, 3, 24), 7.0, dtype=torch.float64)], dim=1)
    prefix = tower.shape.prefix
    found = tower.output(Tokens(padded, (torch.arange(12) < 9).expand(2, -1), prefix=prefix))
    torch.testing.assert_close(found, whole.forward_head(states), rtol=0, atol=1e-12)
    torch.testing.assert_close(tower.output(Tokens(states, prefix=prefix)), whole.forward_head(states), rtol=0, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("pool", ["max", "avgmax"])
def test_a_maximum_of_merged_tokens_is_refused(pool: str) -> None:
    whole, images = model(global_pool=pool), two_kinds()
    assert torch.equal(reduce(whole, "dense")(images), whole(images))
    reduced: ReducedModel = reduce(whole, "tome", ratio=0.7)
    with pytest.raises(HarnessError, match=f"pools by '{pool}', which does not know what merged tokens stand for"):
        reduced(images)
