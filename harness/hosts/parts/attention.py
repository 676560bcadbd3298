"""This program's attention inside the layers that transformers builds, so that one switch and one counter see it.

Shapes: B batch, H heads, M queries, N keys, d channels of a head.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from harness.reduction.kernels import attention

TRANSFORMERS_NAME = "harness"


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
