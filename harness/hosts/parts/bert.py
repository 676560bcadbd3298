"""BERT's parts, from which every host builds its text side: embeddings, layers, the word head.

The layers are transformers'; what runs them is `harness.hosts.parts.text_stacks`.
Shapes: B texts, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertLayer

from harness.hosts.host import HostConfig
from harness.hosts.parts.attention import TRANSFORMERS_NAME


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

    transformers allows cross-attention in "decoder" layers only; whether a layer may look ahead is up to the stack.
    Weights are drawn with deviation `std`, by default 1 / sqrt(inputs): BERT's own 0.02 is made for 768 channels, and
    at 96 attention starts so flat that it hardly learns.
    """
    config = BertConfig(
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=mlp,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        layer_norm_eps=eps,
        is_decoder=cross_attention,
        add_cross_attention=cross_attention,
        attn_implementation=TRANSFORMERS_NAME,
    )
    layers = nn.ModuleList(BertLayer(config, layer_idx=index) for index in range(count))
    for module in layers.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=std or module.in_features**-0.5)
            nn.init.zeros_(module.bias)
    return layers
