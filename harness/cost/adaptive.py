"""What an adaptive method keeps and costs: measured on real images, since every image keeps another number of tokens.

Shapes: I images, L blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.cost.flops import Counts, Macs, count
from harness.cost.probe import tower_call
from harness.reduction import Stack, TokenReducer, Trace, encode
from harness.reduction.plan import Sample

AT_ONCE = 64
# Products are counted image by image, as they run without padding; so many of them give the mean.
COUNTED_IMAGES = 32
PERCENTILES = (5, 50, 95)


@dataclass(frozen=True)
class ImageCounts:
    """Tokens (I, L) of each image in each block's attention and MLP, prefix included."""

    attention: Tensor
    mlp: Tensor


@torch.no_grad()
def image_counts(stack: Stack, reducer: TokenReducer[Any], sample: Sample) -> ImageCounts:
    """The tokens that stand, image by image."""
    found: list[tuple[Tensor, Tensor]] = []
    was_training, total = reducer.training, len(sample.images)
    reducer.eval()
    for start in range(0, total, AT_ONCE):
        part, trace = sample.rows(slice(start, start + AT_ONCE)), Trace()
        encode(stack, reducer, part.images, part.guide, trace)
        entering, leaving = zip(*trace.standing)
        found.append((torch.stack(entering, dim=1), torch.stack(leaving, dim=1)))
    reducer.train(was_training)
    attention, mlp = (torch.cat(counts) for counts in zip(*found))
    return ImageCounts(attention, mlp)


def ratio_on(stack: Stack, sample: Sample) -> Callable[[TokenReducer[Any]], float]:
    """A reducer's token ratio on these images: the mean over images and blocks of the tokens in the MLP, over n0."""

    def measured(reducer: TokenReducer[Any]) -> float:
        return float(token_ratios(stack, image_counts(stack, reducer, sample)).mean())

    return measured


def token_ratios(stack: Stack, counts: ImageCounts) -> Tensor:
    """The token ratio (I,) of each image."""
    return (counts.mlp - stack.shape.prefix).double().mean(dim=1) / stack.shape.patches


def spread(stack: Stack, counts: ImageCounts) -> dict[str, float | int]:
    """How the images differ: percentiles of the mean over blocks of the tokens in an image's MLPs, prefix included, and
    the outer ones of their token ratio.
    """
    each, ratios = counts.mlp.double().mean(dim=1), token_ratios(stack, counts)
    found = {f"tokens_p{share}": float(each.quantile(share / 100)) for share in PERCENTILES}
    ends = {f"ratio_p{share}": float(ratios.quantile(share / 100)) for share in (PERCENTILES[0], PERCENTILES[-1])}
    return found | ends | {"images": len(each)}


def mean_macs(model: nn.Module, reducer: TokenReducer[Any], sample: Sample, *, train_step: bool = True) -> Counts:
    """MACs of the reduced tower with its head, the mean over images that run one by one, on the model's own data."""
    from harness.hosts.parts.towers import open_tower

    images = min(COUNTED_IMAGES, len(sample.images))
    tower = open_tower(model)
    sums: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    attention: Counter[str] = Counter()
    for row in range(images):
        one = sample.rows(slice(row, row + 1))
        counted = count(tower_call(tower.model, reducer, one.images, one.guide), train_step=train_step)
        sums[0].update(counted.forward)
        sums[1].update(counted.train_step)
        attention.update(counted.attention)
    forward, step = ({name: total // images for name, total in part.items()} for part in sums)
    means: tuple[Macs, Macs] = (dict(forward), dict(step))
    return Counts(*means, attention)
