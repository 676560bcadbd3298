"""Attention for every stack: fused, or with the M x N map materialised, as `attention_path` says.

Shapes: B batch, H heads, M queries, N keys, d channels of a head. A bias is added to the logits; a boolean one is
true where a key may be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.kit.errors import HarnessError
from harness.reduction.phases import current_phase

ATTENTION_PATHS = ("fused", "math")
_attention_path: ContextVar[str] = ContextVar("attention_path", default="fused")
_asked: ContextVar[Counter[str] | None] = ContextVar("asked", default=None)


@contextmanager
def attention_path(path: str) -> Iterator[Counter[str]]:
    """Compute attention `fused` (scaled_dot_product_attention) or `math` (the M x N map materialised) inside.

    Gives how often, by phase, attention was asked for so; a method that makes maps of its own does not ask.
    """
    if path not in ATTENTION_PATHS:
        raise HarnessError(f"attention {path!r}: expected fused or math")
    token, asked = _attention_path.set(path), Counter[str]()
    asked_token = _asked.set(asked)
    try:
        yield asked
    finally:
        _attention_path.reset(token)
        _asked.reset(asked_token)


def attention_map(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias): q (B, H, M, d), k (B, H, N, d) -> (B, H, M, N)."""
    return _softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1), bias)


def one_query_map(q: Tensor, weight: Tensor, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same map (B, H, 1, N) of one query q (B, H, 1, d) to the keys weight @ tokens, without making these.

    weight (H d, D), tokens (B, N, D). q (W x) is (q W) x: H D (d + N) products instead of H D d N. A bias of the keys
    adds the same to every logit, and is not needed.
    """
    heads, d = q.shape[1], q.shape[-1]
    carried = torch.einsum("bhd,hde->bhe", q.squeeze(2) * d**-0.5, weight.unflatten(0, (heads, d)).to(q.dtype))
    return _softmax(torch.einsum("bhe,bne->bhn", carried, tokens).unsqueeze(2), bias)


def _softmax(logits: Tensor, bias: Tensor | None) -> Tensor:
    if bias is not None:
        logits = logits.masked_fill(~bias, -float("inf")) if bias.dtype == torch.bool else logits + bias
    return logits.softmax(dim=-1)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Attention output (B, H, M, d) by the path that `attention_path` names; bias broadcasts to (B, H, M, N)."""
    asked = _asked.get()
    if asked is not None:
        asked[current_phase()] += 1
    if _attention_path.get() == "fused":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
    return F.dropout(attention_map(q, k, bias), dropout) @ v


def policy_map(
    q: Tensor, k: Tensor, policy: Tensor, eps: float = 1e-6, own: bool = True, bias: Tensor | None = None
) -> Tensor:
    """The softmax that a policy (B, N) in [0, 1] masks, with gradients to the policy: (B, H, M, N).

    (e_ij + eps / N) / (sum_j e_ij + eps) with e_ij = exp(a_ij - max_j a_ij) p_ij and p_ij = policy_j, or 1 for i = j if
    `own`. The maximum is over all keys, kept or not, after `bias` (log sizes) is added (raoyongming/DynamicViT,
    models/dyvit.py, `softmax_with_policy`).
    """
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    keys = logits.shape[-1]
    weight = policy[:, None, None, :]
    if own:
        weight = weight + (1 - weight) * torch.eye(logits.shape[-2], keys, dtype=policy.dtype, device=policy.device)
    each = (logits - logits.amax(dim=-1, keepdim=True)).exp() * weight
    return (each + eps / keys) / (each.sum(dim=-1, keepdim=True) + eps)
