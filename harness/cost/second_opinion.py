"""A second opinion on multiply-adds: fvcore's count beside ours, and which operations account for the difference.

fvcore counts what torch.jit traces, norms included, and passes over fused attention, for which it has no rule.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from harness.cost.flops import GIGA
from harness.cost.probe import tower_inputs
from harness.kit.errors import HarnessError
from harness.reduction import Guide, TokenReducer, encode

if TYPE_CHECKING:
    from fvcore.nn import FlopCountAnalysis

CHECKS = ("fvcore",)
FUSED = "scaled_dot_product_attention"
# Products, which both count.
PRODUCTS = frozenset({"linear", "addmm", "matmul", "mm", "bmm", "baddbmm", "einsum", "conv"})


class _Reduced(nn.Module):
    """A tower under a method, from images alone, as a tracer wants it."""

    def __init__(self, vit: nn.Module, reducer: TokenReducer[Any], guide: Guide | None) -> None:
        super().__init__()
        self.vit, self.reducer, self.guide = vit, reducer, guide

    def forward(self, images: Tensor) -> Tensor:
        from harness.hosts.parts.towers import open_tower

        return encode(open_tower(self.vit), self.reducer, images, self.guide).states


def fvcore_opinion(vit: nn.Module, reducer: TokenReducer[Any], ours_gmacs: float) -> dict[str, Any]:
    """GMACs of one image's forward pass by fvcore; by operation what it counts and we do not, and the other way round.

    `vit`: with weights, of any values, on the CPU. `unexplained`: what no operation accounts for; 0 where both are
    right.
    """
    images, guide = tower_inputs(vit, reducer, 1, "cpu", torch.float32)
    traced = _Reduced(vit.eval(), reducer.eval(), guide)
    found = _analysis(traced, images)
    whole = found.by_operator()
    alone = {name: count / GIGA for name, count in whole.items() if name not in PRODUCTS and count}
    with_attention = _analysis(traced, images)
    with_attention.set_op_handle(f"aten::{FUSED}", _attention_macs)
    fused = with_attention.by_operator()[FUSED] / GIGA
    total = found.total() / GIGA
    return {
        "total_gmacs": total,
        "ours_gmacs": ours_gmacs,
        "counted_by_fvcore_alone": alone,
        "counted_by_us_alone": {FUSED: fused} if fused else {},
        "unexplained_gmacs": total - sum(alone.values()) + fused - ours_gmacs,
    }


def check_name(name: str) -> None:
    """HarnessError for a second opinion that does not exist."""
    if name not in CHECKS:
        raise HarnessError(f"--check {name}: expected {' or '.join(CHECKS)}")


@torch.no_grad()
def _analysis(module: nn.Module, images: Tensor) -> FlopCountAnalysis:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what torch has deprecated, which fvcore is made with
        from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(module, images)
    return analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> int:
    """q (B, H, M, d), k (B, H, N, d), v (B, H, N, e): q kᵀ, and the map times v."""
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return int(q[0] * q[1] * q[2] * k[2] * (q[3] + v[3]))
