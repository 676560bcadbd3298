"""A-CLIP's golden files of its mask alone: boxes and a teacher's attention in, what two views do not see out."""

from __future__ import annotations

from math import isqrt

from harness.check.golden.file import Golden
from harness.check.golden.objectives._host import output_errors
from harness.objectives.parts.attention_mask import in_view
from harness.reduction import removed_patches


def check(golden: Golden) -> dict[str, float]:
    """Attention and mask of both views."""
    given = golden.part("input")
    boxes, attention = given["positions"], given["attention"]
    side = isqrt(attention.shape[1])
    ours = {}
    for view in range(boxes.shape[1] - 1):
        seen = in_view(attention, boxes[:, view], boxes[:, -1], (side, side))
        ours[f"view_attention_{view}"] = seen
        ours[f"removed_{view}"] = removed_patches(seen, (side, side), golden.config["ratio"]).long()
    return output_errors(golden, ours)
