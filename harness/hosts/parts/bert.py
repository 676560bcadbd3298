"""BERT's parts, from which every host builds its text side: embeddings, layers, the word head.

The layers have the modules of transformers' `BertLayer`, by its names, and none of its imports, which take longer than
a plan; what runs them is `harness.hosts.parts.text_stacks`.
Shapes: B texts, L tokens, M tokens that are read, D width, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from harness.hosts.host import HostConfig
from harness.reduction.kernels import attention


class BertTextConfig(HostConfig):
    """Sizes of a host whose text side is BERT's; its heads and MLP channels are by default the vision side's.

    `positions`: rows of the position table, by default as many as `text_length` needs; `dropout`: of the text side;
    `init_std`: see `bert_layers`.
    """

    text_layers: int
    positions: int | None = None
    dropout: float = 0.0
    init_std: float | None = None
    text_heads: int | None = None
    text_mlp: int | None = None
    text_eps: float = 1e-12


class TextEmbeddings(nn.Module):
    """Token, position and token-type embeddings with a norm: ids (B, L) -> (B, L, D).

    `types` 0: no token-type table; else the first type stands for every token. With `padding_id` positions count
    from padding_id + 1 and padding stands at padding_id, as in RoBERTa.
    """

    def __init__(
        self,
        vocab_size: int,
        positions: int,
        width: int,
        types: int = 0,
        padding_id: int | None = None,
        eps: float = 1e-12,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.padding_id = padding_id
        self.words = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(positions, width)
        self.types = nn.Embedding(types, width) if types else None
        self.norm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)
        for table in (self.words, self.positions, self.types):
            if table is not None:
                nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids_BL: Tensor) -> Tensor:
        if self.padding_id is None:
            positions = self.positions.weight[: ids_BL.shape[1]]
        else:
            stands = (ids_BL != self.padding_id).long()
            positions = self.positions(stands.cumsum(1) * stands + self.padding_id)
        summed = self.words(ids_BL) + positions
        if self.types is not None:
            summed = summed + self.types.weight[0]
        embedded: Tensor = self.dropout(self.norm(summed))
        return embedded


def word_transform(width: int, eps: float = 1e-12) -> nn.Sequential:
    """What BERT's word head does to states (…, D) before it compares them with the word table."""
    return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=eps))


class BertHeads(nn.Module):
    """Queries, keys and values of an attention, and the attention itself, without what follows it."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width}: expected a multiple of the {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states_BLD: Tensor, read_BMD: Tensor, mask: Tensor | None = None) -> Tensor:
        """What states (B, L, D) find in those that they read, (B, L, D); `mask`: broadcasts to (B, heads, L, M)."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(states_BLD), self.key(read_BMD), self.value(read_BMD))
        )
        dropout = self.dropout.p if self.dropout.training else 0.0
        return attention(q, k, v, mask, dropout).transpose(1, 2).flatten(2)


class BertOutput(nn.Module):
    """What ends an attention and an MLP: a Linear, dropout, the residual and the norm."""

    def __init__(self, channels: int, width: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(channels, width)
        self.LayerNorm = nn.LayerNorm(width, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: Tensor, residual_BLD: Tensor) -> Tensor:
        output_BLD: Tensor = self.LayerNorm(self.dropout(self.dense(hidden)) + residual_BLD)
        return output_BLD


class BertAttention(nn.Module):
    """An attention and its output; which states it reads is up to the stack."""

    def __init__(self, width: int, heads: int, eps: float, dropout: float) -> None:
        super().__init__()
        self.self = BertHeads(width, heads, dropout)
        self.output = BertOutput(width, width, eps, dropout)


class BertIntermediate(nn.Module):
    """The MLP's channels."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, channels)

    def forward(self, states_BLD: Tensor) -> Tensor:
        return F.gelu(self.dense(states_BLD))


class BertLayer(nn.Module):
    """Self-attention, cross-attention where it is asked for, and an MLP, each with its norm behind the residual."""

    def __init__(self, width: int, heads: int, mlp: int, eps: float, dropout: float, cross_attention: bool) -> None:
        super().__init__()
        self.attention = BertAttention(width, heads, eps, dropout)
        if cross_attention:
            self.crossattention = BertAttention(width, heads, eps, dropout)
        self.intermediate = BertIntermediate(width, mlp)
        self.output = BertOutput(mlp, width, eps, dropout)

    def mlp(self, states_BLD: Tensor) -> Tensor:
        """States (B, L, D) after the MLP, its residual and its norm."""
        output_BLD: Tensor = self.output(self.intermediate(states_BLD), states_BLD)
        return output_BLD


def bert_layers(
    width: int,
    heads: int,
    count: int,
    *,
    mlp: int,
    cross_attention: bool = False,
    eps: float = 1e-12,
    dropout: float = 0.0,
    std: float | None = None,
) -> nn.ModuleList:
    """`count` BERT layers, as `harness.hosts.parts.text_stacks.BertStack` opens them.

    Weights are drawn with deviation `std`, by default 1 / sqrt(inputs): BERT's own 0.02 is made for 768 channels, and
    at 96 attention starts so flat that it hardly learns.
    """
    layers = nn.ModuleList(BertLayer(width, heads, mlp, eps, dropout, cross_attention) for _ in range(count))
    for module in layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std or module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    return layers
