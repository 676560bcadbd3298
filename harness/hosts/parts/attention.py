"""Attention for every tower and text encoder: fused, or with the N x N map materialised, as `attention_path` says.

Shapes: B batch, H heads, M queries, N keys, d channels of a head. A bias is added to the logits; a boolean one is
true where a key may be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from harness.kit.errors import HarnessError

ATTENTION_PATHS = ("fused", "math")
TRANSFORMERS_NAME = "harness"
_attention_path: ContextVar[str] = ContextVar("attention_path", default="fused")


@contextmanager
def attention_path(path: str) -> Iterator[None]:
    """Compute attention `fused` (scaled_dot_product_attention) or `math` (the N x N map materialised) inside."""
    if path not in ATTENTION_PATHS:
        raise HarnessError(f"attention {path!r}: expected fused or math")
    token = _attention_path.set(path)
    try:
        yield
    finally:
        _attention_path.reset(token)


def attention_map(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias): q (B, H, M, d), k (B, H, N, d) -> (B, H, M, N)."""
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits.masked_fill(~bias, -float("inf")) if bias.dtype == torch.bool else logits + bias
    return logits.softmax(dim=-1)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Attention output (B, H, M, d) by the path that `attention_path` names; bias broadcasts to (B, H, M, N)."""
    if _attention_path.get() == "fused":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    return F.dropout(attention_map(q, k, bias), dropout) @ v


def _for_transformers(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """The same for transformers' layers, which take heads last: (B, M, H, d)."""
    return attention(query, key, value, attention_mask, dropout).transpose(1, 2), None


AttentionInterface.register(TRANSFORMERS_NAME, _for_transformers)
